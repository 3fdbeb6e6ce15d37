# SPDX-License-Identifier: Apache-2.0
"""A whole Stable Diffusion that is still on disk, whatever layout it came in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mrti_jax.models.stored.tensor import Tensors

MINI = "mini"
PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model comes from, and what its files don't tell.

    Attributes:
        path: a diffusers folder, a single file, a Hub id, or "mini".
        revision: branch, tag or commit on the Hub.
        variant: of the weights, such as "fp16".
        tokenizer: a folder or Hub id, for a single file, which holds none.
        prediction_type: what the U-Net predicts, if not what the model says.
    """

    path: str = MINI
    revision: str | None = None
    variant: str | None = None
    tokenizer: str | None = None
    prediction_type: PredictionType | None = None

    @property
    def name(self) -> str:
        """The path, with the revision if there is one: `org/model@revision`."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


@dataclass(frozen=True)
class StoredModule:
    """A module's description and weights.

    Attributes:
        where: the file with the weights, for messages.
        config: as in the `config.json` of diffusers or transformers.
        tensors: by their names in diffusers, less a leading `text_model.`.
    """

    where: str
    config: Mapping[str, Any]
    tensors: Tensors


@dataclass(frozen=True)
class StoredTokenizer:
    """A folder with `vocab.json` and `merges.txt`, or the Hub id of one.

    `pad_token`: in place of the tokenizer's own, if given.
    """

    where: str
    pad_token: str | None = None


@dataclass(frozen=True)
class StoredModel:
    """The parts of a Stable Diffusion.

    Attributes:
        modules: `text_encoder`, `unet`, `vae`, and for XL `text_encoder_2`.
        tokenizers: `tokenizer`, and for XL `tokenizer_2`.
        scheduler_config: the JSON object of `scheduler_config.json`.
        index: the JSON object of `model_index.json`; empty without this file.
        layout: what it was found in, in words.
        notes: what was chosen among several possibilities, a line each.
        unused: names of tensors that belong to none of the modules.
    """

    modules: Mapping[str, StoredModule]
    tokenizers: Mapping[str, StoredTokenizer]
    scheduler_config: Mapping[str, Any]
    index: Mapping[str, Any]
    layout: str
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
