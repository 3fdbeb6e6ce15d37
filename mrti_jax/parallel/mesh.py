# SPDX-License-Identifier: Apache-2.0
"""The devices of a run, as a mesh of two axes, and how arrays are laid out on it.

`data` splits the batch, `fsdp` both the batch and the frozen weights: with `fsdp` 1 every device
holds all weights, with more each device holds a part and gathers the rest when it is used.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mrti_jax.errors import UserError
from mrti_jax.parallel.accelerator import check_accelerator
from mrti_jax.parallel.processes import gather

BATCH = ("data", "fsdp")
"""The mesh axes that a batch is split over: all of them."""

# Of a device's memory, the share that frozen weights may take; batch and activations need the rest.
WEIGHT_SHARE = 0.6
# Smaller weights (norms, biases) are held whole: gathering them costs more than it saves.
MIN_SHARDED_SIZE = 2**14


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """A mesh over `devices` (those of all processes by default), `fsdp` of them along that axis.

    Raises UserError if `fsdp` does not divide their number, and, without `devices`, if JAX would
    leave this machine's accelerator unused.
    """
    if devices is None:
        check_accelerator()
        devices = jax.devices()
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(
            f"fsdp is {fsdp}, but must divide the number of devices, which is {len(devices)}"
        )
    shape, types = (len(devices) // fsdp, fsdp), (AxisType.Auto,) * 2
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(shape, BATCH, devices=devices, axis_types=types)
    # The network between slices (of GPUs: hosts) is slow: as much of `fsdp` as possible is in one.
    inside = math.gcd(fsdp, len(devices) // slices)
    across = fsdp // inside
    arranged = mesh_utils.create_hybrid_device_mesh(
        (len(devices) // slices // inside, inside),
        (slices // across, across),
        devices,
        allow_split_physical_axes=True,
    )
    return Mesh(arranged, BATCH, axis_types=types)


def choose_fsdp(weight_bytes: int, num_devices: int, memory_bytes: int | None) -> int:
    """The fewest devices that can hold the weights together, each a part; 1 if one holds them all.

    `memory_bytes`: of one device; None if it has none of its own, like a CPU, and holds anything.
    Raises UserError if all devices together are too small.
    """
    if memory_bytes is None:
        return 1
    room = WEIGHT_SHARE * memory_bytes
    for fsdp in range(1, num_devices + 1):
        if num_devices % fsdp == 0 and weight_bytes <= fsdp * room:
            return fsdp
    raise UserError(
        f"the model's weights take {weight_bytes / 2**30:.1f} GiB, more than {num_devices} devices "
        f"of {memory_bytes / 2**30:.1f} GiB can hold with the batch: use bfloat16, more devices, "
        "or larger ones"
    )


def fitting_mesh(weight_bytes: int) -> Mesh:
    """A mesh over all devices of all processes, `fsdp` just large enough for the weights."""
    mesh = make_mesh()
    return make_mesh(fsdp=choose_fsdp(weight_bytes, mesh.size, memory_limit(mesh)))


def memory_limit(mesh: Mesh) -> int | None:
    """Bytes of memory that programs may use on each device; None if they don't say.

    If the mesh is of all processes, it is the least of theirs, so that they decide alike, and all
    must call it.
    """
    own = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    limits = gather(own) if mesh.is_multi_process else [own]
    return min((limit for limit in limits if limit is not None), default=None)


def bytes_on_each(tree: Any) -> int:
    """Bytes that each device holds of a tree of arrays, or of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """This axis is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH))


def weight_sharded(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The largest divisible axis (of equal ones, the last) is split over `fsdp`."""
    parts = mesh.shape["fsdp"]
    fitting = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or not fitting or np.prod(shape) < MIN_SHARDED_SIZE:
        return replicated(mesh)
    split = max(fitting, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*(None,) * split, "fsdp"))


def weight_format(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding | Format:
    """`weight_sharded`; on GPUs with the filters of convolutions in the order that cuDNN reads,
    outputs first: otherwise each would be transposed in every train step."""
    sharding = weight_sharded(mesh, shape)
    if mesh.devices.flat[0].platform != "gpu" or len(shape) != 4:
        return sharding
    return Format(Layout(major_to_minor=(3, 0, 1, 2)), sharding)


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Puts host arrays, which every process has in full, on the devices of all processes."""

    def one(array: np.ndarray) -> jax.Array:
        # A copy: its memory may become the device's, which a program may be given to write to.
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: np.array(array[index])
        )

    return jax.tree.map(lambda leaf: one(np.asarray(leaf)), tree)


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on the host, in every process; all of them must call it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
