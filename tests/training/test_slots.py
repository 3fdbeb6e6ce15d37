# SPDX-License-Identifier: Apache-2.0
"""Slots: how many there are, how they share the devices, and what is put into one."""

import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.parallel.mesh import make_mesh
from mrti_jax.training.slots import count_slots, fill, padded, put, take


@pytest.mark.parametrize(
    ("concepts", "at_once", "part", "devices", "slots"),
    [
        (3, 8, 4, 1, 3),
        (100, 64, 1, 1, 50),  # two turns of 50, not 64 and 36
        (100, 64, 1, 8, 56),  # divides over the devices
        (100, 64, 8, 8, 50),
        (3, 2, 3, 4, 2),  # can't be helped
    ],
)
def test_no_more_slots_than_turns_need(
    concepts: int, at_once: int, part: int, devices: int, slots: int
):
    assert count_slots(concepts, at_once, part, devices) == slots


@pytest.mark.parametrize(
    ("part", "num_slots", "devices", "examples"),
    [(4, 1, 2, 4), (3, 1, 8, 8), (2, 3, 8, 8), (3, 2, 8, 4), (5, 8, 8, 5)],
)
def test_no_more_places_than_devices_need(part: int, num_slots: int, devices: int, examples: int):
    assert padded(part, num_slots, devices) == examples


@pytest.mark.parametrize("num_slots", [3, 4])  # in all devices each, and shared by two
def test_what_is_put_into_a_slot_is_taken_out_of_it(num_slots: int):
    mesh = make_mesh()
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    slots = fill({"a": numbers, "b": np.int32(7)}, num_slots, mesh)
    assert slots["a"].sharding.is_fully_replicated == (num_slots == 3)
    slots = put(slots, 1, {"a": jnp.asarray(-numbers), "b": jnp.int32(8)}, mesh)
    for slot in range(num_slots):
        one = take(slots, slot, mesh)
        np.testing.assert_array_equal(one["a"], -numbers if slot == 1 else numbers)
        assert one["a"].sharding.is_fully_replicated and int(one["b"]) == (8 if slot == 1 else 7)
