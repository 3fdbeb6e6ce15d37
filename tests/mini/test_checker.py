# SPDX-License-Identifier: Apache-2.0
"""The checker reads real and blurred pictures of the world right."""

import numpy as np
import pytest
from scipy import ndimage

from mrti_jax.mini.checker import read
from mrti_jax.mini.world import Scene, random_scene, render


@pytest.mark.parametrize("degraded", [False, True])
def test_reads_pictures_right(degraded: bool) -> None:
    rng = np.random.default_rng(7)
    count = 80
    right = dict.fromkeys(("shape", "colour", "background", "texture"), 0)
    for index in range(count):
        scene = random_scene(rng, held_out=index % 4 == 0)
        picture = render(scene).astype(np.float32)
        if degraded:  # about what a decoder loses
            picture = ndimage.gaussian_filter(picture, (0.7, 0.7, 0.0))
            picture += rng.normal(0.0, 5.0, picture.shape)
        reading = read(np.clip(picture + 0.5, 0, 255).astype(np.uint8))
        for name in right:
            right[name] += getattr(reading, name) == getattr(scene, name)
    for name, hits in right.items():
        bound = 0.98
        if name == "texture":  # a few weak marks look alike, above all blurred and in noise
            bound = 0.88 if degraded else 0.97
        assert hits / count >= bound, (name, hits)


def test_empty_picture_has_a_background_and_no_object() -> None:
    reading = read(np.full((64, 64, 3), (44, 98, 208), np.uint8))
    assert reading.background == "blue"
    assert reading.shape is None
    assert reading.colour is None


def test_noise_has_no_object() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert read(noise).shape is None


def test_patches_of_two_colours_are_no_colour_and_no_texture() -> None:
    red, blue = (
        render(Scene("square", "plain", colour, "white", diameter=46.0))
        for colour in ("red", "blue")
    )
    halves = np.where(np.arange(64)[None, :, None] < 32, red, blue)
    reading = read(halves)
    assert reading.shape == "square"
    assert reading.colour is None
    assert reading.texture is None
