# SPDX-License-Identifier: Apache-2.0
"""Several squares out of one photo."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import learn
from mrti_jax.training.crops import sizes_of, spread
from mrti_jax.training.images import square


def test_they_go_from_one_end_of_the_longer_side_to_the_other():
    wide = np.uint8(np.broadcast_to(np.arange(200)[None, :, None], (100, 200, 3)))  # 0 1 2 ...
    crops = spread(square("a.png", Image.fromarray(wide), 100), 5)
    assert [crop.pixels[0, 0, 0] for crop in crops] == [0, 25, 50, 75, 100]
    assert all(crop.pixels.shape == (100, 100, 3) and crop.name == "a.png" for crop in crops)
    assert [crop.sizes for crop in crops] == [(100, 200, 0, x, 100, 100) for x in range(0, 101, 25)]

    tall = spread(square("a.png", Image.fromarray(wide.transpose(1, 0, 2)), 50), 3)
    assert [crop.sizes for crop in tall] == [(200, 100, y, 0, 50, 50) for y in (0, 25, 50)]


def test_what_was_right_is_left_of_the_mirrored_ones():
    wide = np.uint8(np.broadcast_to(np.arange(200)[None, :, None], (100, 200, 3)))
    crops = spread(square("a.png", Image.fromarray(wide), 100), 3)
    mirrored = spread(square("a.png", Image.fromarray(wide[:, ::-1]), 100), 3)
    own, flipped = sizes_of(crops, flip=True)
    np.testing.assert_array_equal(own, [crop.sizes for crop in crops])
    for crop, sizes in zip(crops, flipped, strict=True):
        (same,) = (m for m in mirrored if (m.pixels == crop.pixels[:, ::-1]).all())
        assert same.sizes == tuple(sizes)


@pytest.mark.parametrize(("shape", "number"), [((100, 100), 1), ((102, 100), 3)])
def test_none_is_there_twice(shape: tuple[int, int], number: int):
    photo = square("a.png", Image.new("RGB", shape), 100)
    assert len({crop.sizes for crop in spread(photo, 9)}) == len(spread(photo, 9)) == number


def test_one_is_the_centre():
    photo = square("a.png", Image.new("RGB", (300, 100)), 50)
    assert spread(photo, 1) == [photo] and photo.sizes == (100, 300, 0, 50, 50, 50)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:there is only one image")
def test_training_sees_all_of_them_and_the_sheet_each_photo_once(
    tiny_sd: StableDiffusion, make_config: Callable, tmp_path: Path
):
    wide = np.random.default_rng(0).integers(0, 256, (16, 48, 3), np.uint8)
    ends, sheets = [], []
    for crops in (1, 3):
        config = make_config(
            data={"crops": crops},
            concept={"num_buckets": 2},
            train={"steps": 6, "final_grid": True, "picture_steps": 2},
            optimizer={"learning_rate": 1e-2},
        )
        out = tmp_path / str(crops)
        concept = learn(tiny_sd, [wide], name="jane", initializer="red", out=out, config=config)
        ends.append(concept.embeddings)
        with Image.open(out / "grid.png") as sheet:
            sheets.append(sheet.size)
    # The thirds differ as much as noise does, so the tables do, by more than rounding.
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    assert sheets[0] == sheets[1]
