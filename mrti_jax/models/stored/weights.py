# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder hold a module's weights, and all their tensors.

Diffusers and transformers write one file or numbered shards with an index, as safetensors or as
pickles (`.bin`), plain or with a variant such as `fp16` in the name.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.files import reporting
from mrti_jax.models.stored.tensor import StoredTensor
from mrti_jax.models.stored.tensor_file import read_tensor_file

# Safetensors before pickles.
FORMATS = ("safetensors", "bin")
# diffusion_pytorch_model.fp16-00001-of-00002.safetensors, model.safetensors.index.fp16.json, ...
_NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>(?!safetensors|bin)\w+))?"
    r"(?P<shard>-\d+-of-\d+)?(?:\.(?P<late>(?!safetensors|bin)\w+))?\.(?P<format>safetensors|bin)"
    r"(?P<index>\.index(?:\.(?P<index_variant>\w+))?\.json)?"
)


def read_json(path: epath.Path) -> dict[str, Any]:
    """The JSON object in a file; UserError where there is none."""
    with reporting(f"{path} can't be read", path):
        if not path.exists():
            raise UserError(f"{path} is missing: is this a diffusers folder?")
        content = path.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def file_names(folder: epath.Path) -> set[str]:
    """The names of what is in a folder; none if there is no folder."""
    with reporting(f"the folder '{folder}' can't be read", folder):
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def variant_of_parts(
    parts: Mapping[str, Collection[str]], variant: str | None
) -> dict[str, str | None]:
    """For each part of a model (with its file names) the variant to use: the wanted one, or the
    plain weights (None) if only other parts have the variant."""
    having = {part for part, names in parts.items() if weight_files(names, variant)}
    return {part: variant if part in having or not having else None for part in parts}


def no_weights(where: str, names: Iterable[str], variant: str | None) -> UserError:
    """The error for a folder (`where`) with these files, none of which is what was asked for."""
    found = {_variant(match) for name in names if (match := _NAME.fullmatch(name))}
    what = f"variant '{variant}' of the weights" if variant else "weights"
    others = " or ".join(sorted(other for other in found if other))
    if others:
        return UserError(f"{where} holds no {what}: use --variant {others}")
    if found:
        return UserError(f"{where} holds no {what}, but plain ones: leave out --variant")
    return UserError(f"{where} holds no {what} (*.safetensors or *.bin, under diffusers' names)")


def weight_files(names: Collection[str], variant: str | None) -> list[str]:
    """The file with a module's weights, or the index and then its shards; empty if there is none.

    Args:
        names: the files of the module's folder.
    """
    matches = [match for name in sorted(names) if (match := _NAME.fullmatch(name))]
    for wanted in FORMATS:
        fitting = [m for m in matches if m["format"] == wanted and _variant(m) == variant]
        whole = [m[0] for m in fitting if not m["shard"] and not m["index"]]
        if whole:
            return whole[:1]
        index = [m[0] for m in fitting if m["index"]]
        if index:
            return index[:1] + [m[0] for m in fitting if m["shard"]]
    return []


def read_weights(
    folder: epath.Path, variant: str | None
) -> tuple[epath.Path, dict[str, StoredTensor]]:
    """The file (or index) with the weights in `folder`, and its tensors by name, unread.

    Raises:
        UserError: there are none, or a file is missing, damaged or not to be trusted.
    """
    names = file_names(folder)
    found = weight_files(names, variant)
    if not found:
        raise no_weights(str(folder), names, variant)
    path = folder / found[0]
    if not path.name.endswith(".json"):
        return path, read_tensor_file(path)[0]
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{path} has no weight_map from tensors to files")
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(shards.values())):
        # A plain name: an index must not lead out of its folder.
        if name not in names:
            raise UserError(f"{path} names the shard {name}, which is missing: download it again")
        tensors |= read_tensor_file(folder / name)[0]
    lacking = sorted(shards.keys() - tensors.keys())
    if lacking:
        raise UserError(f"{path} names {lacking[0]}, which {shards[lacking[0]]} does not hold")
    return path, tensors


def _variant(match: re.Match[str]) -> str | None:
    return match["variant"] or match["late"] or match["index_variant"]
