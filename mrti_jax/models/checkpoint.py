# SPDX-License-Identifier: Apache-2.0
"""Weights of a diffusers folder to our modules and back: one rule, since the names are the same.

A module's attribute path is the tensor's name in the checkpoint; only the leaf differs (`kernel`,
`scale`, `embedding` are all `weight`), and kernels are transposed (OIHW -> HWIO, out-in -> in-out).
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mrti_jax.errors import UserError
from mrti_jax.models.frozen import Frozen, Params, abstract
from mrti_jax.parallel.mesh import replicated

LEAF = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
KERNEL_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
FILE_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def read_json(path: epath.Path) -> dict[str, Any]:
    """The JSON object in a file; UserError where there is none."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: is this a diffusers folder?") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def tensor_name(path: tuple[Any, ...]) -> str:
    """The name in the checkpoint of the weight at an attribute path."""
    return ".".join([*map(str, path[:-1]), LEAF[path[-1]]])


def stored_axes(path: tuple[Any, ...], ndim: int) -> tuple[int, ...]:
    """For each axis of our weight, the axis of the stored tensor that it is."""
    return KERNEL_AXES[ndim] if path[-1] == "kernel" else tuple(range(ndim))


def load_module(
    config: Any, build: Callable[[], nnx.Module], folder: epath.Path, mesh: Mesh
) -> Frozen:
    """Reads a module's weights straight onto the devices of `mesh`, replicated.

    Each device's part is read from the file on its own and cast to the dtype that `build` asks for.

    Raises:
        UserError: no safetensors file, or it is damaged, or a tensor is missing, left over or of
            another shape.
    """
    path = next((folder / name for name in FILE_NAMES if (folder / name).exists()), None)
    if path is None:
        raise UserError(f"{folder} holds no weights: none of {', '.join(FILE_NAMES)} is there")
    graphdef, weights = abstract(build)
    sharding = replicated(mesh)
    params: dict[tuple[Any, ...], jax.Array] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            stored = {_plain(name): name for name in file.keys()}  # noqa: SIM118
            left = {name for name in stored if not name.endswith("position_ids")}
            for keys, want in weights:
                name = tensor_name(keys)
                if name not in stored:
                    raise UserError(f"{path}: tensor '{name}' is missing")
                left.discard(name)
                part = file.get_slice(stored[name])
                params[keys] = _read(part, keys, want, sharding, f"{path}: tensor '{name}'")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    if left:
        names = ", ".join(sorted(left)[:3])
        raise UserError(f"{path}: {len(left)} tensors are not part of this module: {names}")
    return Frozen(config, graphdef, nnx.traversals.unflatten_mapping(params))


def _plain(name: str) -> str:
    """Text encoders saved before transformers 5 have their names under `text_model.`"""
    return name.removeprefix("text_model.")


def _read(
    part: Any,
    path: tuple[Any, ...],
    want: jax.ShapeDtypeStruct,
    sharding: NamedSharding,
    what: str,
) -> jax.Array:
    axes = stored_axes(path, len(want.shape))
    shape = part.get_shape()
    expected = [0] * len(axes)
    for ours, theirs in enumerate(axes):
        expected[theirs] = want.shape[ours]
    if list(shape) != expected:
        raise UserError(f"{what} has shape {list(shape)}, but the config asks for {expected}")

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        stored_index = tuple(index[axes.index(axis)] for axis in range(len(axes)))
        return np.asarray(part[stored_index]).transpose(axes).astype(want.dtype)

    return jax.make_array_from_callback(want.shape, sharding, read)


def save_module(params: Params, path: epath.Path, dtype: jax.typing.DTypeLike) -> None:
    """Writes weights as safetensors that diffusers and transformers read."""
    tensors = {}
    for keys, value in nnx.traversals.flatten_mapping(params).items():
        array = np.asarray(value)
        inverse = np.argsort(stored_axes(keys, array.ndim))
        tensors[tensor_name(keys)] = np.ascontiguousarray(
            array.transpose(inverse).astype(jnp.dtype(dtype))
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})
