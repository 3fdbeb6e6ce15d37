# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' distances tell coarse from fine, whatever the place, size and background."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from benchmarks.distances import Cutout, Distances, between, same_noise, to_others, to_photos
from mrti_jax.mini.concepts import CONCEPTS, Appearance, photos
from mrti_jax.mini.world import Scene, render

# Bounds between what was measured for all concepts: new photos of the same are at 1 to 10 (coarse),
# 2 to 5 (fine), 1 to 5 (aligned).
NEAR_COARSE, NEAR_FINE, NEAR_ALIGNED = 12.0, 6.5, 6.0
FAR_COARSE, FAR_FINE, FAR_ALIGNED = 15.0, 9.0, 12.0

NAMES = ("jane", "gus", "dax", "quinn", "flora")
# Several bars cross an object of these, so that another period or angle leaves its areas of tone.
DETAILS = {"aspect": 1.0, "angle": 0.1, "period": 9.6, "phase": 0.25, "duty": 0.5}


def cut(scene: Scene) -> Cutout:
    return Cutout(render(scene, 64))


def scenes_of(name: str) -> list[Scene]:
    return photos(plainly_detailed(name), 4, rng=np.random.default_rng(3))


def plainly_detailed(name: str) -> Appearance:
    concept = CONCEPTS[name]
    return dataclasses.replace(concept, details=DETAILS | {"tone": concept.details["tone"]})


def mean(name: str, **changes: Any) -> Distances:
    """Mean distances of two new photos of the concept, changed, to its own."""
    own = [cut(scene) for scene in scenes_of(name)]
    new = photos(plainly_detailed(name), 2, rng=np.random.default_rng(5))
    each = [to_photos(cut(dataclasses.replace(scene, **changes)), own) for scene in new]
    return Distances(*np.mean([dataclasses.astuple(d) for d in each], axis=0).tolist())


@pytest.mark.parametrize("name", NAMES)
def test_new_photos_of_a_concept_are_near(name: str) -> None:
    found = mean(name)
    assert found.coarse < NEAR_COARSE and found.fine < NEAR_FINE and found.aligned < NEAR_ALIGNED


@pytest.mark.parametrize("name", NAMES)
def test_another_period_and_angle_are_far_in_the_fine_distances_alone(name: str) -> None:
    same = mean(name)
    found = mean(name, period=DETAILS["period"] / 1.4, angle=DETAILS["angle"] + 0.7)
    assert found.coarse < same.coarse + 4.0
    assert found.fine > 1.8 * same.fine
    assert found.aligned > max(FAR_ALIGNED, 1.8 * same.aligned)


@pytest.mark.parametrize("name", NAMES)
def test_another_phase_is_no_difference_of_texture(name: str) -> None:
    if CONCEPTS[name].combo.texture == "ringed":
        pytest.skip("the phase of rings changes whether a mark is in the middle")
    assert mean(name, phase=DETAILS["phase"] + 0.3).fine < NEAR_FINE


@pytest.mark.parametrize("name", NAMES)
def test_another_colour_or_shape_is_far_in_the_coarse_distance(name: str) -> None:
    combo = CONCEPTS[name].combo
    colour = "brown" if combo.colour != "brown" else "red"
    shape = "cross" if combo.shape != "cross" else "circle"
    assert mean(name, colour=colour).coarse > FAR_COARSE
    assert mean(name, shape=shape).coarse > FAR_COARSE


def test_a_plain_object_is_far_in_the_fine_distances() -> None:
    found = mean("jane", texture="plain")
    assert found.fine > FAR_FINE and found.aligned > FAR_ALIGNED


def test_distances_are_symmetric_and_zero_between_equals() -> None:
    a, b = (cut(scene) for scene in scenes_of("nell")[:2])
    # The aligned distance is a difference of sums that nearly cancel.
    assert dataclasses.astuple(between(a, a)) == pytest.approx((0, 0, 0), abs=0.05)
    assert dataclasses.astuple(between(a, b)) == pytest.approx(
        dataclasses.astuple(between(b, a)), abs=0.05
    )


def test_a_picture_without_an_object_is_far_from_all_and_from_itself_not() -> None:
    empty = Cutout(np.full((64, 64, 3), 200, np.uint8))
    photo = cut(scenes_of("jane")[0])
    assert not empty.found
    assert between(empty, empty) == Distances(0.0, 0.0, 0.0)
    assert between(empty, photo).coarse > 50 and between(photo, empty).fine > FAR_FINE


def test_photos_among_themselves_leave_each_out() -> None:
    cutouts = [cut(scene) for scene in scenes_of("olaf")]
    found = to_others(cutouts, cutouts)
    assert len(found) == 4
    assert found[0] == to_photos(cutouts[0], cutouts[1:])
    assert to_others(cutouts[::-1], cutouts)[0] == to_photos(cutouts[3], cutouts[1:])


def test_same_noise_parts_a_blur_from_a_change_of_colour() -> None:
    scene = scenes_of("jane")[0]
    low, high = same_noise(cut(scene), cut(dataclasses.replace(scene, background="red")))
    assert low > 3 * high
    low, high = same_noise(cut(scene), cut(dataclasses.replace(scene, phase=scene.phase + 0.5)))
    assert high > 3 * low
