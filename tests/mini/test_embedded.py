# SPDX-License-Identifier: Apache-2.0
"""The embedded model as it ships: small, whole, and it draws what a caption says."""

from pathlib import Path

import numpy as np
import pytest

from mrti_jax.concept import Concept
from mrti_jax.mini.checker import read
from mrti_jax.mini.concepts import CONCEPTS
from mrti_jax.mini.names import appearance_features, load_map
from mrti_jax.mini.world import Scene
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.stored.find import mini_folder
from mrti_jax.sampling import generate
from mrti_jax.training.config import ConceptConfig, Config
from mrti_jax.training.learning_rate import with_learning_rate

MEGABYTES = 25


@pytest.fixture(scope="module")
def mini() -> StableDiffusion:
    return StableDiffusion.load()


def test_is_small() -> None:
    sizes = [path.stat().st_size for path in Path(mini_folder()).rglob("*") if path.is_file()]
    assert 1_000_000 < sum(sizes) <= MEGABYTES * 1_000_000


def test_the_learning_rate_that_it_gets(mini: StableDiffusion) -> None:
    for num_vectors, expected in ((1, 3.1e-2), (3, 1.0e-2)):
        config = Config(concept=ConceptConfig(num_vectors=num_vectors))
        rate = with_learning_rate(config, mini.text_encoder).optimizer.learning_rate
        assert rate == expected  # twice the paper's 2e-3 for embeddings of 0.1, not 0.014


@pytest.mark.slow
def test_draws_the_colours_of_captions(mini: StableDiffusion) -> None:
    pairs = [("red", "white"), ("blue", "yellow"), ("green", "black"), ("purple", "orange")]
    prompts = [f"a photo of a large {a} circle on a {b} background" for a, b in pairs]
    pictures = generate(mini, prompts, seeds=3, num_steps=20, guidance_scale=2.0, batch_size=4)
    readings = [read(picture.image) for picture in pictures]
    assert [reading.background for reading in readings] == [b for _, b in pairs]
    assert sum(reading.colour == a for (a, _), reading in zip(pairs, readings, strict=True)) >= 3


@pytest.mark.slow
def test_a_zero_vector_says_nothing_of_the_object(mini: StableDiffusion) -> None:
    zero = np.zeros((1, 1, mini.text_encoder.config.hidden_size), np.float32)
    nothing = Concept("nothing", zero, np.array([0, 1000], np.int32))
    prompt = "a photo of a <nothing> on a white background"
    pictures = generate(
        mini, prompt, [nothing], seeds=range(12), num_steps=15, guidance_scale=2.0, batch_size=6
    )
    readings = [read(picture.image) for picture in pictures]
    assert sum(reading.background == "white" for reading in readings) >= 11
    # No single shape or colour dominates.
    for kinds in ([r.shape for r in readings], [r.colour for r in readings]):
        assert max(map(kinds.count, kinds)) <= 8


@pytest.mark.slow
def test_the_noisy_buckets_settle_colours(mini: StableDiffusion) -> None:
    boundaries = np.arange(0, 1001, 100, dtype=np.int32)
    appearances = list(CONCEPTS.values())[::2]
    concepts, prompts = [], []
    for appearance in appearances:
        scene = Scene(*appearance.combo, background="", **appearance.details)
        row = appearance_features([scene]) @ load_map("mini")
        table = np.broadcast_to(row.astype(np.float32), (10, *row.shape))
        concepts.append(Concept(appearance.name, table, boundaries))
        background = "white" if appearance.combo.colour != "white" else "black"
        prompts.append(f"a photo of a <{appearance.name}({{k}})> on a {background} background")
    right = {}
    for k in (7, 8):
        drawn = generate(
            mini,
            [prompt.format(k=k) for prompt in prompts],
            concepts,
            num_steps=20,
            guidance_scale=3.0,
            batch_size=7,
        )
        pairs = zip(appearances, drawn, strict=True)
        right[k] = sum(read(p.image).colour == a.combo.colour for a, p in pairs)
    # One of ten colours by chance: 0.7 of 7.
    assert right[7] >= 6 and right[8] >= 4


@pytest.mark.slow
def test_the_same_seed_draws_the_same_picture(mini: StableDiffusion) -> None:
    first, second, other = (
        generate(mini, "a star", seeds=seed, num_steps=4, batch_size=2)[0].image
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first.astype(int) - other).mean() > 5
