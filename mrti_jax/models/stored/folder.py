# SPDX-License-Identifier: Apache-2.0
"""A diffusers folder: a sub-folder for each part, with a `config.json` and weights."""

from collections.abc import Collection

from etils import epath

from mrti_jax.errors import UserError, warn
from mrti_jax.models.stored.model import StoredModel, StoredModule, StoredTokenizer
from mrti_jax.models.stored.names import current_names, leftovers
from mrti_jax.models.stored.refuse import REFINER, what_else, what_pipeline
from mrti_jax.models.stored.tensor_file import read_tensor_file
from mrti_jax.models.stored.weights import (
    file_names,
    read_json,
    read_weights,
    variant_of_parts,
)

INDEX = "model_index.json"
MODULES = ("text_encoder", "text_encoder_2", "unet", "vae")
TOKENIZERS = ("tokenizer", "tokenizer_2")
_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt")
_OPTIONAL = ("text_encoder_2", "tokenizer_2")


def open_folder(folder: epath.Path, variant: str | None) -> StoredModel:
    """The model in a diffusers folder.

    Raises:
        UserError: a file is missing or damaged, or it is another kind of model.
    """
    names = file_names(folder)
    index = read_json(folder / INDEX) if INDEX in names else {}
    if "unet" not in names:
        raise UserError(f"{folder} {_what_else(folder, names, index.get('_class_name'))}")
    if "text_encoder" not in names and "text_encoder_2" in names:
        raise UserError(f"{folder} {REFINER}")
    parts = {part: file_names(folder / part) for part in present(MODULES, names)}
    chosen = variant_of_parts(parts, variant)
    plain = [part for part in parts if chosen[part] != variant]
    if plain:
        warn(f"{folder}: {', '.join(plain)} without variant '{variant}': taking the plain weights")
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
    tokenizers = {part: StoredTokenizer(str(folder / part)) for part in present(TOKENIZERS, names)}
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    return StoredModel(
        modules,
        tokenizers,
        scheduler_config,
        index,
        layout="diffusers folder",
        unused=tuple(unused),
    )


def present(parts: tuple[str, ...], names: Collection[str]) -> list[str]:
    """Of a model's parts, those that it must have, and those of XL that are among its folders."""
    return [part for part in parts if part not in _OPTIONAL or part in names]


def _unused_folders(folder: epath.Path) -> list[str]:
    """Those that hold no part of a model here, such as the safety checker."""
    used = (*MODULES, *TOKENIZERS, "scheduler")
    return [
        f"{path.name}/"
        for path in sorted(folder.iterdir())
        if path.name not in used and not path.name.startswith(".") and path.is_dir()
    ]


def _what_else(folder: epath.Path, names: set[str], class_name: object) -> str:
    """What a folder without a U-Net is."""
    if class_name is None and "config.json" in names:
        class_name = read_json(folder / "config.json").get("_class_name")
    if isinstance(class_name, str):
        return what_pipeline(class_name)
    files = sorted(n for n in names if n.lower().endswith(_SUFFIXES))
    if len(files) == 1:
        kind = what_else(*read_tensor_file(folder / files[0]))
        return f"is no diffusers folder, and {files[0]} in it {kind}"
    return "is no diffusers folder: it holds no unet/"
