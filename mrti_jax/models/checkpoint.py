# SPDX-License-Identifier: Apache-2.0
"""Weights of a diffusers folder to our modules and back: one rule, since the names are the same.

A module's attribute path is the tensor's name in the checkpoint; only the leaf differs (`kernel`,
`scale`, `embedding` are all `weight`), and kernels are transposed (OIHW -> HWIO, out-in -> in-out).
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.experimental.layout import Format
from jax.sharding import Mesh, NamedSharding
from safetensors.numpy import save

from mrti_jax.errors import UserError
from mrti_jax.files import write_whole
from mrti_jax.models.frozen import Frozen, Params, Weights, abstract
from mrti_jax.models.stored.model import StoredModule
from mrti_jax.models.stored.tensor import StoredTensor, Tensors
from mrti_jax.parallel.mesh import weight_format

LEAF = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
KERNEL_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
# Threads that read: each may hold a tensor twice.
READERS = min(8, os.cpu_count() or 1)


def tensor_name(path: tuple[Any, ...]) -> str:
    """The name in the checkpoint of the weight at an attribute path."""
    return ".".join([*map(str, path[:-1]), LEAF[path[-1]]])


def stored_axes(path: tuple[Any, ...], ndim: int) -> tuple[int, ...]:
    """For each axis of our weight, the corresponding axis of the stored tensor."""
    return KERNEL_AXES[ndim] if path[-1] == "kernel" else tuple(range(ndim))


def load_module(
    config: Any, build: Callable[[], nnx.Module], stored: StoredModule, mesh: Mesh
) -> Frozen:
    """Reads a module's weights straight onto the devices of `mesh`, split over its axis `fsdp`.

    Threads read a few tensors at a time and cast them to the dtype that `build` asks for, so that
    little more than the weights is in memory.

    Raises:
        UserError: a tensor can't be read, is missing, left over, quantized or of the wrong shape.
    """
    graphdef, weights = abstract(build)
    problems = mismatches(weights, stored.tensors)
    if problems:
        raise UserError(f"{stored.where}: {problems[0]}")

    def read(keys: tuple[Any, ...], want: jax.ShapeDtypeStruct) -> jax.Array:
        tensor = stored.tensors[tensor_name(keys)]
        return _read(tensor, keys, want, weight_format(mesh, want.shape))

    # Reading, casting and transposing release the GIL.
    with ThreadPoolExecutor(READERS) as threads:
        arrays = threads.map(read, *zip(*weights, strict=True))
        params = dict(zip((keys for keys, _ in weights), arrays, strict=True))
    return Frozen(config, graphdef, nnx.traversals.unflatten_mapping(params))


def mismatches(weights: Weights, tensors: Tensors) -> list[str]:
    """Why the tensors can't be a module's weights, one line each; empty if they can."""
    problems = []
    for keys, want in weights:
        name, axes = tensor_name(keys), stored_axes(keys, len(want.shape))
        expected = tuple(want.shape[axes.index(axis)] for axis in range(len(axes)))
        if name not in tensors:
            problems.append(f"tensor '{name}' is missing")
        elif tensors[name].shape != expected:
            shape = list(tensors[name].shape)
            problems.append(
                f"tensor '{name}' has shape {shape}, but the config asks for {list(expected)}"
            )
        elif not jnp.issubdtype(tensors[name].dtype, jnp.floating):
            problems.append(
                f"tensor '{name}' has dtype {tensors[name].dtype}: quantized weights can't be read"
            )
    left = sorted(tensors.keys() - {tensor_name(keys) for keys, _ in weights})
    if left:
        names = ", ".join(left[:3])
        problems.append(f"{len(left)} tensors are not part of this module: {names}")
    return problems


def _read(
    tensor: StoredTensor,
    path: tuple[Any, ...],
    want: jax.ShapeDtypeStruct,
    place: NamedSharding | Format,
) -> jax.Array:
    # A function defined here would be decorated with the tests' type checks, which lose warnings in
    # threads.
    axes = stored_axes(path, len(want.shape))
    read = functools.partial(_read_part, tensor, axes, want.dtype, {})
    return jax.make_array_from_callback(want.shape, place, read)


def _read_part(
    tensor: StoredTensor,
    axes: tuple[int, ...],
    dtype: np.dtype,
    parts: dict[Any, np.ndarray],
    index: tuple[slice, ...] | None,
) -> np.ndarray:
    """A part of our weight. `parts`: those read so far, since several devices may hold the same."""
    assert index is not None
    bounds = tuple((part.start, part.stop) for part in index)
    if bounds not in parts:
        stored_index = tuple(index[axes.index(axis)] for axis in range(len(axes)))
        parts[bounds] = tensor.read(stored_index, dtype).transpose(axes)
    return parts[bounds]


def save_module(params: Params, path: epath.Path, dtype: jax.typing.DTypeLike) -> None:
    """Writes weights as safetensors for diffusers and transformers. UserError if it can't."""
    tensors = {}
    for keys, value in nnx.traversals.flatten_mapping(params).items():
        array = np.asarray(value)
        inverse = np.argsort(stored_axes(keys, array.ndim))
        tensors[tensor_name(keys)] = np.ascontiguousarray(
            array.transpose(inverse).astype(jnp.dtype(dtype))
        )
    write_whole(path, save(tensors, metadata={"format": "pt"}))
