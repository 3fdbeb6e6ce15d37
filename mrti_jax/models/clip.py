# SPDX-License-Identifier: Apache-2.0
"""CLIP's text model (Radford et al. 2021), which Stable Diffusion conditions on."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mrti_jax.models.attention import attend
from mrti_jax.models.config import check_divides, read_config
from mrti_jax.models.layers import embed, layer_norm, linear


def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x), OpenAI CLIP's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


Activation = Literal["quick_gelu", "gelu"]
ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """The fields of a text encoder's `config.json` that decide what it computes."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], where: str) -> "CLIPTextConfig":
        """From the JSON object of `config.json`; UserError for what is not supported."""
        result = read_config(cls, config, where=where, only={"model_type": "clip_text_model"})
        check_divides(
            where,
            "num_attention_heads",
            result.num_attention_heads,
            "hidden_size",
            [result.hidden_size],
        )
        return result


class CLIPEmbeddings(nnx.Module):
    """The tables of token embeddings [vocab, D] and position embeddings [positions, D]."""

    def __init__(self, config: CLIPTextConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        def table(rows: int) -> nnx.Embed:
            return embed(rows, config.hidden_size, dtype=dtype, rngs=rngs)

        self.token_embedding = table(config.vocab_size)
        self.position_embedding = table(config.max_position_embeddings)


class CLIPAttention(nnx.Module):
    """Causal multi-head self-attention, [B, L, D] -> [B, L, D]."""

    def __init__(self, config: CLIPTextConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            linear(size, size, dtype=dtype, rngs=rngs) for _ in range(4)
        )

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(attend(query, key, value, self.num_heads, is_causal=True))


class CLIPMLP(nnx.Module):
    """The feed-forward network, two linear layers, [B, L, D] -> [B, L, D]."""

    def __init__(self, config: CLIPTextConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        inner, outer = config.intermediate_size, config.hidden_size
        self.activation = config.hidden_act
        self.fc1 = linear(outer, inner, dtype=dtype, rngs=rngs)
        self.fc2 = linear(inner, outer, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """A pre-norm transformer layer, [B, L, D] -> [B, L, D]."""

    def __init__(self, config: CLIPTextConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.layer_norm1 = layer_norm(
            config.hidden_size, config.layer_norm_eps, dtype=dtype, rngs=rngs
        )
        self.self_attn = CLIPAttention(config, dtype=dtype, rngs=rngs)
        self.layer_norm2 = layer_norm(
            config.hidden_size, config.layer_norm_eps, dtype=dtype, rngs=rngs
        )
        self.mlp = CLIPMLP(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """Holds the transformer layers; `CLIPTextModel` runs them."""

    def __init__(self, config: CLIPTextConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [
                CLIPEncoderLayer(config, dtype=dtype, rngs=rngs)
                for _ in range(config.num_hidden_layers)
            ]
        )


class CLIPTextModel(nnx.Module):
    """Token ids -> token embeddings (`embed`) -> text states (`encode`).

    The two halves are separate so that a learned word can be put in between them.
    """

    def __init__(self, config: CLIPTextConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.embeddings = CLIPEmbeddings(config, dtype=dtype, rngs=rngs)
        self.encoder = CLIPEncoder(config, dtype=dtype, rngs=rngs)
        self.final_layer_norm = layer_norm(
            config.hidden_size, config.layer_norm_eps, dtype=dtype, rngs=rngs
        )

    def embed(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Token embeddings, without positions."""
        return self.embeddings.token_embedding(ids)

    def encode(self, embeddings: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Adds positions and runs the causal transformer and the final LayerNorm.

        Returns what transformers calls `last_hidden_state`.
        """
        return self.last_states(embeddings)[1]

    def last_states(
        self, embeddings: Float[Array, "b l d"]
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b l d"]]:
        """The last layer's input (transformers' `hidden_states[-2]`), and what `encode` returns."""
        positions = self.embeddings.position_embedding(jnp.arange(embeddings.shape[1]))
        hidden = embeddings.astype(positions.dtype) + positions
        for layer in self.encoder.layers:
            before, hidden = hidden, layer(hidden)
        return before, self.final_layer_norm(hidden)


class CLIPTextModelWithProjection(CLIPTextModel):
    """A text model with the linear map into CLIP's joint space of texts and pictures."""

    def __init__(self, config: CLIPTextConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        self.text_projection = linear(
            config.hidden_size, config.projection_dim, bias=False, dtype=dtype, rngs=rngs
        )

    def pool(self, encoded: Float[Array, "b l d"], end: Int[Array, "b"]) -> Float[Array, "b p"]:
        """The projected state at `end`, the position of each text's end-of-text token."""
        return self.text_projection(encoded[jnp.arange(len(end)), end])
