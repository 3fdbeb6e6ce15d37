# SPDX-License-Identifier: Apache-2.0
"""Names of appearances: what they say, and where they stand in captions."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mrti_jax.errors import UserError
from mrti_jax.mini.names import (
    NAME,
    appearance_features,
    initial_map,
    load_map,
    save_map,
    with_names,
)
from mrti_jax.mini.pictures import random_scenes
from mrti_jax.mini.text import random_captions
from mrti_jax.mini.world import Scene, caption, render
from mrti_jax.mini.world.palette import COLOURS
from mrti_jax.mini.world.shapes import SHAPES

STAR = Scene("star", "striped", "blue", "white", angle=0.2, phase=0.3, tone=-0.4)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "heart"},
        {"texture": "dotted"},
        {"colour": "red"},
        {"aspect": 1.1},
        {"angle": 0.1},
        {"period": 11.0},
        {"phase": 0.6},
        {"duty": 0.6},
        {"colour_shade": 0.5},
        {"tone": 0.4},
    ],
)
def test_a_name_tells_what_changes_the_object(change: dict[str, object]) -> None:
    other = dataclasses.replace(STAR, **change)  # type: ignore[arg-type]
    assert (render(STAR) != render(other)).any()
    assert (appearance_features([STAR]) != appearance_features([other])).any()


def test_a_name_does_not_tell_of_the_rest_of_the_picture() -> None:
    moved = dataclasses.replace(
        STAR, background="red", style="painting", size="large", diameter=46.0, x=28.0, rotation=0.1
    )
    np.testing.assert_array_equal(appearance_features([STAR]), appearance_features([moved]))


def test_a_plain_object_has_no_details_of_a_texture() -> None:
    plain = dataclasses.replace(STAR, texture="plain")
    turned = dataclasses.replace(plain, angle=-0.3, period=9.0, phase=0.9, duty=0.4, tone=0.4)
    np.testing.assert_array_equal(appearance_features([plain]), appearance_features([turned]))


def test_names_are_about_as_large_as_other_words() -> None:
    words = 0.3 * jax.random.normal(jax.random.key(1), (200, 64))
    scenes = [scene for scene in random_scenes(300, 4) if scene.texture != "plain"]
    names = appearance_features(scenes) @ np.asarray(initial_map(words))
    assert 0.75 * 0.3 < names.std() < 1.25 * 0.3


def test_a_name_stands_in_its_place_alone() -> None:
    embedded = jnp.arange(24.0).reshape(2, 4, 3)
    ids = jnp.array([[5, 9, 1, 1], [5, 7, 1, 1]])
    out = with_names(embedded, ids, 9, -jnp.ones((2, 3)))
    np.testing.assert_array_equal(out, embedded.at[0, 1].set(-1.0))


def test_a_caption_with_a_name_tells_the_rest_in_words() -> None:
    rng = np.random.default_rng(0)
    texts = [caption(STAR, rng, name=NAME) for _ in range(200)]
    words = [set(text.replace(",", "").split()) for text in texts]
    assert all(NAME in each for each in words)
    told = set().union(*words)
    assert {"white", "background", "photo", "star"} <= told
    assert not told & (set(COLOURS) - {"white"} | set(SHAPES) - {"star"} | {"striped", "stripes"})


def test_other_captions_have_no_names() -> None:
    scenes = list(random_scenes(500, 4))
    captions = random_captions(scenes, np.random.default_rng(0), full=0.8, empty=0.1)
    assert not any(NAME in text.split() for text in captions)
    captions = random_captions(scenes, np.random.default_rng(0), full=0.8, empty=0.1, named=0.4)
    share = np.mean([NAME in text.split() for text in captions])
    assert abs(share - 0.4 * 0.9) < 0.08  # 4 standard errors of 500 draws


def test_the_map_in_a_models_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names\.safetensors can't be read"):
        load_map(str(tmp_path))
    save_file({"other": np.zeros((3, 8), np.float32)}, tmp_path / "names.safetensors")
    with pytest.raises(UserError, match=r"names\.safetensors holds no map from"):
        load_map(str(tmp_path))
    names = initial_map(jnp.eye(8))
    save_map(names, tmp_path)
    np.testing.assert_array_equal(load_map(str(tmp_path)), np.float32(np.float16(names)))
