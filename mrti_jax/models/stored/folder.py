# SPDX-License-Identifier: Apache-2.0
"""A diffusers folder: a sub-folder for each part, with a `config.json` and weights."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from etils import epath

from mrti_jax.errors import UserError, warn
from mrti_jax.models.stored.model import StoredModel, StoredModule, StoredTokenizer
from mrti_jax.models.stored.names import current_names, leftovers
from mrti_jax.models.stored.refuse import (
    LCM,
    LORA,
    OURS,
    REFINER,
    foreign,
    image_conditioned,
    what_class,
    what_else,
)
from mrti_jax.models.stored.single_file import family_of
from mrti_jax.models.stored.tensor_file import read_tensor_file
from mrti_jax.models.stored.weights import (
    file_names,
    read_json,
    read_weights,
    variant_of_parts,
)

INDEX = "model_index.json"
# By the text encoder that they belong to.
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
MODULES = (*TOKENIZERS, "unet", "vae")
# Either the first two or the third hold the vocabulary; the others modify it.
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt")
_LORA = "pytorch_lora_weights."


def open_folder(folder: epath.Path, variant: str | None, name: str) -> StoredModel:
    """The model in a diffusers folder.

    Args:
        name: what it is called in warnings.

    Raises:
        UserError: a file is missing or damaged, or it is another kind of model.
    """
    index = check_kind(str(folder), folder)
    names = file_names(folder)
    parts = {part: file_names(folder / part) for part in present(names)}
    chosen = variant_of_parts(parts, variant)
    plain = [part for part in parts if chosen[part] != variant]
    if plain:
        warn(f"{name}: no variant '{variant}' of {', '.join(plain)}: using the plain weights")
    modules = {}
    unused = _unused_folders(folder)
    for part in parts:
        config = read_json(folder / part / "config.json")
        path, stored = read_weights(folder / part, chosen[part])
        tensors = current_names(stored)
        left = leftovers(part, tensors)
        unused += [f"{part}: {name}" for name in sorted(left)]
        used = {name: tensor for name, tensor in tensors.items() if name not in left}
        modules[part] = StoredModule(str(path), config, used)
    tokenizers = {name: StoredTokenizer(str(folder / name)) for name in tokenizers_of(parts)}
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    return StoredModel(
        modules,
        tokenizers,
        scheduler_config,
        index,
        layout="diffusers folder",
        unused=tuple(unused),
    )


def check_kind(what: str, folder: epath.Path) -> dict[str, Any]:
    """The JSON object of `model_index.json`; empty without this file.

    Reads no weights.

    Args:
        what: the folder, for the error.

    Raises:
        UserError: a description is missing or damaged, or it is another kind of model.
    """
    names = file_names(folder)
    if "unet" not in names:
        kind = kind_by_names(names) or kind_by_class(folder) or _kind_by_file(folder, names)
        raise UserError(f"{what} {kind or 'is not a diffusers folder: it holds no unet/'}")
    index = read_json(folder / INDEX) if INDEX in names else {}
    unet_config = read_json(folder / "unet" / "config.json")
    kind = foreign(index) or foreign(unet_config) or _kind_by_parts(index, names)
    if kind is None and unet_config.get("time_cond_proj_dim"):
        kind = LCM
    if kind is None:
        configs = {part: read_json(folder / part / "config.json") for part in present(names)}
        kind = image_conditioned(unet_config, configs["vae"])
    if kind is not None:
        raise UserError(f"{what} {kind}")
    return index


def kind_by_names(names: Collection[str]) -> str | None:
    """What a folder without a U-Net is, as in `what_else`, by the names in it; None if they don't
    say."""
    is_lora = "adapter_config.json" in names or any(name.startswith(_LORA) for name in names)
    return LORA if is_lora else None


def kind_by_class(folder: epath.Path) -> str | None:
    """What a folder without a U-Net is, as in `what_else`, by its descriptions; None if none of
    them names a class."""
    for name in (INDEX, "config.json", "transformer/config.json"):
        if (folder / name).exists():
            config = read_json(folder / name)
            if isinstance(config.get("_class_name"), str):
                return foreign(config) or what_class(config["_class_name"])
    return None


def present(names: Collection[str]) -> list[str]:
    """The parts that a model must have, and XL's additional one if it is among the folders."""
    return [part for part in MODULES if part != "text_encoder_2" or part in names]


def tokenizers_of(parts: Iterable[str]) -> list[str]:
    """The folders of the tokenizers that a model of these parts needs."""
    return [TOKENIZERS[part] for part in parts if part in TOKENIZERS]


def _unused_folders(folder: epath.Path) -> list[str]:
    """Folders that hold no part used here, such as the safety checker."""
    used = (*MODULES, *TOKENIZERS.values(), "scheduler")
    return [
        f"{path.name}/"
        for path in sorted(folder.iterdir())
        if path.name not in used and not path.name.startswith(".") and path.is_dir()
    ]


def _kind_by_parts(index: Mapping[str, Any], names: Collection[str]) -> str | None:
    """What a folder with a U-Net is, as in `what_else`, by its other parts; None if they don't
    say."""
    if "text_encoder" not in names and "text_encoder_2" in names:
        return REFINER
    class_name = index.get("_class_name")
    whole = set(present(names)) <= set(names)
    return (
        what_class(class_name)
        if isinstance(class_name, str) and class_name not in OURS and not whole
        else None
    )


def _kind_by_file(folder: epath.Path, names: Collection[str]) -> str | None:
    """What a folder without a U-Net is, as in `what_else`, by the only file of tensors in it; None
    if it holds none or several."""
    files = [name for name in names if name.lower().endswith(_SUFFIXES)]
    if len(files) != 1:
        return None
    tensors, facts = read_tensor_file(folder / files[0])
    if family_of(tensors) is not None:
        path = folder / files[0]
        return f"is not a diffusers folder, but holds a model in a single file: give {path}"
    return f"is not a diffusers folder, and {files[0]} in it {what_else(tensors, facts)}"
