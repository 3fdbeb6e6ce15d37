# SPDX-License-Identifier: Apache-2.0
"""From the name or path that a user gives for a model to its files."""

import dataclasses
from typing import get_args

from etils import epath

from mrti_jax.errors import UserError, check_word
from mrti_jax.files import reporting, to_path
from mrti_jax.models.source import MINI, ModelSource, UNetPrediction
from mrti_jax.models.stored.folder import INDEX, open_folder
from mrti_jax.models.stored.hub import fetch_model, fetch_tokenizer, is_hub_id
from mrti_jax.models.stored.model import StoredModel, StoredTokenizer
from mrti_jax.models.stored.single_file import open_file

HUB_PAGES = "https://huggingface.co/"


def open_model(source: ModelSource, outline: epath.Path | None = None) -> StoredModel:
    """The model that `source` names, recognised by its layout; no weights are read.

    Args:
        outline: an empty folder for what describes a model on the Hub, if its weights are not to be
            downloaded.

    Raises:
        UserError: there is none, or it is not a Stable Diffusion that is supported here.
    """
    if source.prediction_type is not None:
        check_word("prediction_type", source.prediction_type, get_args(UNetPrediction))
    stored = _open(source, outline)
    if source.tokenizer is not None:
        tokenizers = {
            part: dataclasses.replace(tokenizer, where=source.tokenizer)
            for part, tokenizer in stored.tokenizers.items()
        }
        stored = dataclasses.replace(stored, tokenizers=tokenizers)
    if source.prediction_type is not None:
        config = {**stored.scheduler_config, "prediction_type": source.prediction_type}
        stored = dataclasses.replace(stored, scheduler_config=config)
    return stored


def _open(source: ModelSource, outline: epath.Path | None) -> StoredModel:
    if source.path.startswith(HUB_PAGES):
        hub_id = "/".join(source.path.removeprefix(HUB_PAGES).split("/")[:2])
        raise UserError(f"model '{source.path}' is a web page: give its Hub id, '{hub_id}'")
    path = local_path(source.path)
    on_hub = is_on_hub(source.path)
    if source.revision is not None and not on_hub:
        raise UserError(
            f"'{source.path}' is not on the Hub: leave out --revision '{source.revision}'"
        )
    if on_hub:
        folder = fetch_model(source.path, source.revision, source.variant, outline)
        return open_folder(folder, source.variant, source.name)
    if path.name == INDEX:
        raise UserError(f"'{path}' only describes a model: give its folder, '{path.parent}'")
    with reporting(f"model '{source.path}' can't be read", path):
        is_folder, exists = path.is_dir(), path.exists()
    if is_folder:
        return open_folder(path, source.variant, source.name)
    if not exists:
        raise UserError(
            f"model '{source.path}' does not exist: give a diffusers folder, a .safetensors or "
            ".ckpt file, a Hub id (owner/model) or 'mini', the embedded one"
        )
    if source.variant is not None:
        raise UserError(f"'{path}' is a single file: leave out --variant '{source.variant}'")
    return open_file(path, source.prediction_type)


def is_on_hub(name: str) -> bool:
    """Whether a name is a Hub id and not a local path."""
    return is_hub_id(name) and not to_path(name).exists()


def tokenizer_folder(stored: StoredTokenizer) -> epath.Path:
    """The folder of a tokenizer, from the Hub if it is not local.

    Raises:
        UserError: there is none.
    """
    if not is_on_hub(stored.where):
        return to_path(stored.where)
    try:
        return fetch_tokenizer(stored.where)
    except UserError as error:
        raise UserError(f"no tokenizer (--tokenizer gives a folder with one): {error}") from None


def local_path(model: str) -> epath.Path:
    """Where a model that is not on the Hub is: "mini" is the embedded one."""
    return mini_folder() if model == MINI else to_path(model)


def mini_folder() -> epath.Path:
    """Where the embedded model is."""
    return epath.resource_path("mrti_jax") / "assets" / "mini"
