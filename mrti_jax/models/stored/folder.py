# SPDX-License-Identifier: Apache-2.0
"""A diffusers folder: a sub-folder for each part, with a `config.json` and weights."""

from etils import epath

from mrti_jax.errors import warn
from mrti_jax.models.stored.model import StoredModel, StoredModule, StoredTokenizer
from mrti_jax.models.stored.names import current_names
from mrti_jax.models.stored.weights import read_json, read_weights, variants

INDEX = "model_index.json"
MODULES = ("text_encoder", "text_encoder_2", "unet", "vae")
TOKENIZERS = ("tokenizer", "tokenizer_2")
_OPTIONAL = ("text_encoder_2", "tokenizer_2")


def open_folder(folder: epath.Path, variant: str | None) -> StoredModel:
    """The model in a diffusers folder.

    Raises:
        UserError: a file is missing or damaged, or no part has the variant.
    """
    parts = [part for part in MODULES if part not in _OPTIONAL or (folder / part).is_dir()]
    plain = [part for part in parts if variant and _lacks(folder / part, variant)]
    if plain and len(plain) < len(parts):
        warn(f"{folder}: {', '.join(plain)} without variant '{variant}': taking the plain weights")
    modules = {}
    for part in parts:
        config = read_json(folder / part / "config.json")
        chosen = None if part in plain and len(plain) < len(parts) else variant
        path, tensors = read_weights(folder / part, chosen)
        modules[part] = StoredModule(str(path), config, current_names(tensors))
    tokenizers = {
        part: StoredTokenizer(folder / part)
        for part in TOKENIZERS
        if part not in _OPTIONAL or (folder / part).is_dir()
    }
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    index = read_json(folder / INDEX) if (folder / INDEX).exists() else {}
    return StoredModel(modules, tokenizers, scheduler_config, index, layout="diffusers folder")


def _lacks(folder: epath.Path, variant: str) -> bool:
    found = variants(path.name for path in folder.iterdir()) if folder.is_dir() else set()
    return variant not in found and None in found
