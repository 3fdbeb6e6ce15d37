# SPDX-License-Identifier: Apache-2.0
"""A whole Stable Diffusion that is still on disk, whatever layout it came in."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from mrti_jax.models.stored.tensor import Tensors

MINI = "mini"
UNetPrediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, kw_only=True)
class SourcePath:
    """Where a model is."""

    path: str = MINI
    """A diffusers folder, a single .safetensors or .ckpt file, a Hub id (owner/model), or `mini`,
    the embedded model."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What a model needs besides its path."""

    revision: str | None = None
    """Branch, tag or commit on the Hub; the main branch if not given."""
    variant: str | None = None
    """Variant of the weights, such as fp16 (a folder or the Hub); the plain ones if not given."""
    tokenizer: str | None = None
    """A folder or Hub id to take the tokenizer from; the model's own if not given, and for a single
    file, which has none, that of openai/clip-vit-large-patch14."""
    prediction_type: UNetPrediction | None = None
    """What the U-Net predicts; what the model's files say if not given."""

    @property
    def options(self) -> dict[str, Any]:
        """These options by name."""
        return {field.name: getattr(self, field.name) for field in fields(SourceOptions)}


@dataclass(frozen=True, kw_only=True)
class ModelSource(SourceOptions, SourcePath):
    """Where a model comes from, and what its files don't say."""

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
        tensors: by their names in diffusers, without a leading `text_model.`.
    """

    where: str
    config: Mapping[str, Any]
    tensors: Tensors


@dataclass(frozen=True)
class StoredTokenizer:
    """A folder with `vocab.json` and `merges.txt`, or the Hub id of one.

    `pad_token`: replaces the tokenizer's own, if given.
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
        layout: the layout it was found in, in words.
        unused: names of tensors and folders (with a trailing `/`) that are not read.
    """

    modules: Mapping[str, StoredModule]
    tokenizers: Mapping[str, StoredTokenizer]
    scheduler_config: Mapping[str, Any]
    index: Mapping[str, Any]
    layout: str
    unused: tuple[str, ...] = ()
