# SPDX-License-Identifier: Apache-2.0
"""A whole Stable Diffusion that is still on disk, whatever layout it came in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrti_jax.models.stored.tensor import Tensors


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
