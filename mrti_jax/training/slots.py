# SPDX-License-Identifier: Apache-2.0
"""Slots: what is the same for several concepts, in one array each, that are trained at once.

Every array of a tree (`State`, `Data`) gets a new first axis of S slots. Where S divides over the
devices each of them has some slots for itself, with their photos and tables: then nothing crosses
between devices. Else every device has all slots, and a part of the examples of each.
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
    """Whether each device has slots for itself."""
    return num_slots % mesh.size == 0


def slots_sharded(mesh: Mesh, num_slots: int) -> NamedSharding:
    """Where arrays with a first axis of slots lie."""
    # One device alone: compiled programs name what they give back replicated, and take it so again.
    shared = divides(num_slots, mesh) and mesh.size > 1
    return batch_sharded(mesh) if shared else replicated(mesh)


def count_slots(num_concepts: int, at_once: int, microbatch_size: int, num_devices: int) -> int:
    """The fewest slots with which the concepts need no more turns than with `at_once` slots.

    `microbatch_size`: examples that each of them has at a time. More slots than concepts where only
    so the work divides over the devices.
    """
    turns = -(-num_concepts // at_once)
    slots = -(-num_concepts // turns)
    rounded = -(-slots // num_devices) * num_devices
    return rounded if slots * microbatch_size % num_devices and rounded <= at_once else slots


def padded(microbatch_size: int, num_slots: int, num_devices: int) -> int:
    """Examples of each slot at a time, with those that only fill up what the devices share: as few
    as let all slots together divide over them."""
    multiple = num_devices // math.gcd(num_devices, num_slots)
    return -(-microbatch_size // multiple) * multiple


def examples_on_each(microbatch_size: int, num_slots: int, num_devices: int) -> int:
    """Examples that each device works through at once."""
    return num_slots * padded(microbatch_size, num_slots, num_devices) // num_devices


def fill(one: Tree, num_slots: int, mesh: Mesh) -> Tree:
    """The same in every slot, on the devices."""

    def repeat(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return np.broadcast_to(array, (num_slots, *array.shape))

    return place(jax.tree.map(repeat, one), slots_sharded(mesh, num_slots))


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def put(slots: Tree, slot: int | Int[Array, ""], one: Tree, mesh: Mesh) -> Tree:
    """The tree with `one` in a slot; `slots` is donated."""

    def replace(old: Array, new: Array) -> Array:
        # Not by an index: of an array whose slots are on many devices, all would get all.
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
