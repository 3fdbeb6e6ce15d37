# SPDX-License-Identifier: Apache-2.0
"""One line that says what a run computes, and on what."""

import collections

import jax
from jax.sharding import Mesh


def describe(model: str, mesh: Mesh, dtype: jax.typing.DTypeLike, at_a_time: int, each: int) -> str:
    """The model's name, devices, mesh, dtype of the weights, the batch that is processed at a time,
    and each device's share of it at most."""
    kinds = collections.Counter(device.device_kind for device in mesh.devices.flat)
    devices = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    count = jax.process_count()
    processes = f" in {count} processes" if count > 1 else ""
    platform = mesh.devices.flat[0].platform
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    most = "up to " if each * mesh.size > at_a_time else ""
    return (
        f"model: {model} | devices: {devices} ({platform}){processes} | mesh: {axes} | "
        f"weights: {jax.numpy.dtype(dtype).name} | batch: {at_a_time}, {most}{each} per device"
    )
