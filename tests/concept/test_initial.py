# SPDX-License-Identifier: Apache-2.0
"""Where training starts: a word's token embedding, and neutral vectors after it."""

import numpy as np
import pytest
from transformers import CLIPTokenizer

from mrti_jax.concept import initial_vectors
from mrti_jax.errors import UserError
from mrti_jax.models.clip import CLIPTextModel
from mrti_jax.models.frozen import Frozen
from mrti_jax.models.text_encoder import TextEncoder


def test_the_word_and_neutral_vectors_after_it(
    tokenizer: CLIPTokenizer,
    text_model: Frozen[CLIPTextModel],
    text_encoder: Frozen[TextEncoder],
) -> None:
    vectors = initial_vectors("Dog", 3, [tokenizer], text_encoder)
    table = np.asarray(text_model.params["embeddings"]["token_embedding"]["embedding"])
    assert vectors.dtype == np.float32 and vectors.shape == (3, table.shape[1])
    assert np.array_equal(vectors[0], table[tokenizer.convert_tokens_to_ids("dog</w>")])
    for neutral in vectors[1:]:
        np.testing.assert_allclose(neutral, table.sum(0) / len(table), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("red dog", r"2 tokens \(red \+ dog\).*such as 'dog'"),
        ("ox", r"2 tokens \(o \+ x\).*such as 'object'"),
        ("xdog", r"2 tokens \(x \+ dog\).*such as 'object'"),
        ("  ", "is empty"),
        ("\x1c\x1d", "2 tokens .*such as 'object'"),
    ],
)
def test_an_initializer_that_is_not_one_token(
    word: str, problem: str, tokenizer: CLIPTokenizer, text_encoder: Frozen[TextEncoder]
) -> None:
    with pytest.raises(UserError, match=problem):
        initial_vectors(word, 1, [tokenizer], text_encoder)
