# SPDX-License-Identifier: Apache-2.0
"""The text encoder of a Stable Diffusion: one CLIP text model, or SDXL's two side by side."""

import dataclasses
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mrti_jax.errors import UserError
from mrti_jax.models.clip import CLIPTextModel, CLIPTextModelWithProjection
from mrti_jax.models.frozen import Frozen

# What community files call SDXL's two text models.
XL_PARTS = ("clip_l", "clip_g")
# Name and width of each text model; a single one has the name "".
Parts = tuple[tuple[str, int], ...]


class TextStates(NamedTuple):
    """What the U-Net sees of texts: the states of all tokens, and SDXL's pooled state."""

    hidden: Float[Array, "*b l d"]
    pooled: Float[Array, "*b p"] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """`pooled_dim`: width of the pooled states; None without them."""

    parts: Parts
    max_position_embeddings: int
    pooled_dim: int | None

    @property
    def hidden_size(self) -> int:
        """D, the width of all text models together."""
        return sum(width for _, width in self.parts)

    @property
    def columns(self) -> list[slice]:
        """The columns of D of each text model."""
        ends = accumulate((width for _, width in self.parts), initial=0)
        return [slice(start, end) for start, end in pairwise(ends)]


class TextEncoder(nnx.Module):
    """E text models with their own token ids, whose states are concatenated along D.

    A single one returns its last states (Stable Diffusion 1.x and 2.x); two both return the states
    before their last layer, and the second its pooled state (Podell et al. 2023, arXiv 2307.01952,
    section 2.1).
    """

    def __init__(self, models: Sequence[CLIPTextModel]):
        self.models = nnx.List(models)

    def embed(self, ids: Int[Array, "b e l"]) -> tuple[Float[Array, "b l _"], ...]:
        """The token embeddings of each text model, without positions."""
        return tuple(model.embed(ids[:, i]) for i, model in enumerate(self.models))

    def encode(
        self, embeddings: Sequence[Float[Array, "b l _"]], end: Int[Array, "b e"]
    ) -> TextStates:
        """`end`: the position of the end-of-text token in each text model's sequence."""
        states = [m.last_states(x) for m, x in zip(self.models, embeddings, strict=True)]
        penultimate = len(states) > 1
        hidden = [before if penultimate else last for before, last in states]
        pooled = None
        if isinstance(self.models[-1], CLIPTextModelWithProjection):
            pooled = self.models[-1].pool(states[-1][1], end[:, -1])
        return TextStates(jnp.concatenate(hidden, axis=-1), pooled)


def side_by_side(models: Sequence[Frozen[CLIPTextModel]]) -> Frozen[TextEncoder]:
    """One or two text models as one encoder; it shares their weights.

    Raises UserError if they read texts of different lengths.
    """
    lengths = {model.config.max_position_embeddings for model in models}
    if len(lengths) > 1:
        raise UserError(
            "the model's two text encoders have different max_position_embeddings: "
            f"{', '.join(map(str, sorted(lengths)))}"
        )
    last = models[-1]
    bound = [model.bind(model.params) for model in models]
    graphdef, state = nnx.split(TextEncoder(bound), nnx.Param)
    names = XL_PARTS if len(models) > 1 else ("",)
    config = TextEncoderConfig(
        parts=tuple((name, m.config.hidden_size) for name, m in zip(names, models, strict=True)),
        max_position_embeddings=lengths.pop(),
        pooled_dim=(
            last.config.projection_dim
            if isinstance(bound[-1], CLIPTextModelWithProjection)
            else None
        ),
    )
    return Frozen(config, graphdef, nnx.to_pure_dict(state))
