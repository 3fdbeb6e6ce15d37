# SPDX-License-Identifier: Apache-2.0
"""Slots: the arrays of several concepts that are trained at once, stacked.

Every array of a tree (`State`, `Data`) gets a new first axis of S slots. If S divides over the
devices, each of them has some slots to itself, with their photos and tables: then nothing crosses
between devices. Otherwise every device has all slots, and a part of the examples of each.
"""

import functools
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from mrti_jax.parallel.mesh import batch_sharded, place, replicated

Tree = TypeVar("Tree")


def divides(num_slots: int, mesh: Mesh) -> bool:
    """Whether each device has slots to itself."""
    return num_slots % mesh.size == 0


def slots_sharded(mesh: Mesh, num_slots: int) -> NamedSharding:
    """The sharding of arrays with a first axis of slots."""
    # On one device, compiled programs call what they return replicated, and take it so again.
    shared = divides(num_slots, mesh) and mesh.size > 1
    return batch_sharded(mesh) if shared else replicated(mesh)


def count_slots(num_concepts: int, at_once: int, microbatch_size: int, num_devices: int) -> int:
    """The fewest slots with which the concepts need no more turns than with `at_once` slots.

    `microbatch_size`: examples that each of them has at a time. More slots than that if only so the
    work divides over the devices.
    """
    turns = -(-num_concepts // at_once)
    slots = -(-num_concepts // turns)
    rounded = -(-slots // num_devices) * num_devices
    return rounded if slots * microbatch_size % num_devices and rounded <= at_once else slots


def padded(microbatch_size: int, num_slots: int, num_devices: int) -> int:
    """Examples of each slot at a time, including padding: as little as lets those of all slots
    together divide over the devices."""
    multiple = num_devices // math.gcd(num_devices, num_slots)
    return -(-microbatch_size // multiple) * multiple


def examples_on_each(microbatch_size: int, num_slots: int, num_devices: int) -> int:
    """Examples that each device processes at once."""
    return num_slots * padded(microbatch_size, num_slots, num_devices) // num_devices


def fill(one: Tree, num_slots: int, mesh: Mesh) -> Tree:
    """The same tree in every slot, on the devices."""

    def repeat(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return np.broadcast_to(array, (num_slots, *array.shape))

    return place(jax.tree.map(repeat, one), slots_sharded(mesh, num_slots))


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def put(slots: Tree, slot: int | Int[Array, ""], one: Tree, mesh: Mesh) -> Tree:
    """The tree with `one` in a slot; `slots` is donated."""

    def replace(old: Array, new: Array) -> Array:
        # Not by an index: that would copy all slots of a sharded array to all devices.
        here = jnp.arange(len(old)).reshape(-1, *(1,) * new.ndim) == slot
        return jax.lax.with_sharding_constraint(
            jnp.where(here, new, old), slots_sharded(mesh, len(old))
        )

    return jax.tree.map(replace, slots, one)


@functools.partial(jax.jit, static_argnums=2)
def take(slots: Tree, slot: int | Int[Array, ""], mesh: Mesh) -> Tree:
    """A copy of what is in a slot, on every device."""

    def one(array: Array) -> Array:
        everywhere = jax.lax.with_sharding_constraint(array, replicated(mesh))
        return jax.lax.with_sharding_constraint(everywhere[slot], replicated(mesh))

    return jax.tree.map(one, slots)
