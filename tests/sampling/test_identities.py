# SPDX-License-Identifier: Apache-2.0
"""What the schemes must have in common, by pictures that are equal bit for bit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_concept

from mrti_jax.concept import Concept
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling import generate

Draw = Callable[..., np.ndarray]
LAST = 9


@pytest.fixture
def draw(tiny_sd: StableDiffusion) -> Draw:
    def run(
        text: str, concept: Concept, sd: StableDiffusion = tiny_sd, **options: Any
    ) -> np.ndarray:
        options = {"sampler": "ddim", "num_steps": 12, "batch_size": 2} | options
        return generate(sd, text, [concept], **options)[0].image

    return run


@pytest.fixture(scope="module")
def jane() -> Concept:
    return tiny_concept()


@pytest.mark.parametrize("word", ["<jane[0]>", "<jane(0)>", "<jane[0.0]>", "<jane(0.0)>"])
def test_resolution_zero_is_the_bare_word(word: str, draw: Draw, jane: Concept) -> None:
    bare = draw("a photo of <jane> in red", jane)
    np.testing.assert_array_equal(draw(f"a photo of {word} in red", jane), bare)


@pytest.mark.parametrize("word", [f"<jane[{LAST}]>", "<jane[1.0]>", "<jane|1.0|>"])
def test_full_resolution_is_the_last_row_throughout(word: str, draw: Draw, jane: Concept) -> None:
    fixed = draw(f"a photo of <jane|{LAST}|> in red", jane)
    np.testing.assert_array_equal(draw(f"a photo of {word} in red", jane), fixed)


def test_other_buckets_and_schemes_give_other_pictures(draw: Draw, jane: Concept) -> None:
    words = ["<jane>", "<jane[5]>", "<jane(5)>", "<jane|5|>", f"<jane[{LAST}]>"]
    pictures = [draw(f"a photo of {word} in red", jane).tobytes() for word in words]
    assert len(set(pictures)) == len(words)


@pytest.mark.parametrize("word", ["<jane>", "<jane[0]>", "<jane(0)>", "<jane|0|>", "<jane[0.7]>"])
def test_one_bucket_is_an_ordinary_embedding(
    word: str, draw: Draw, tiny_sd: StableDiffusion
) -> None:
    """Ordinary: put in place of a word of the vocabulary, with no concept at all."""
    concept = tiny_concept(num_buckets=1)
    (token,) = tiny_sd.tokenizers[0]("circle", add_special_tokens=False)["input_ids"]
    model = tiny_sd.text_models[0]
    params = model.params
    table = params["embeddings"]["token_embedding"]["embedding"]
    changed = table.at[token].set(jnp.asarray(concept.embeddings[0, 0]))
    embeddings = params["embeddings"] | {"token_embedding": {"embedding": changed}}
    model = dataclasses.replace(model, params=params | {"embeddings": embeddings})
    ordinary = dataclasses.replace(tiny_sd, text_models=(model,))
    np.testing.assert_array_equal(
        draw(f"a photo of {word} in red", concept),
        draw("a photo of circle in red", concept, ordinary),
    )


def test_official_semi_leaves_bucket_k_out(draw: Draw, jane: Concept) -> None:
    official = draw("a <jane(4)>", jane, official_semi=True)
    np.testing.assert_array_equal(official, draw("a <jane(5)>", jane))


def test_a_semi_word_that_is_dropped_throughout(draw: Draw, jane: Concept) -> None:
    """The official semi scheme at the last bucket never has a row: nothing, at every step."""
    never = f"a photo of <jane({LAST})>"
    dropped = draw(never, jane, official_semi=True, nothing="drop")
    np.testing.assert_array_equal(dropped, draw("a photo of ", jane))
    replaced = draw(never, jane, official_semi=True, nothing="initializer")
    np.testing.assert_array_equal(replaced, draw("a photo of circle", jane))
