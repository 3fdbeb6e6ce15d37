# SPDX-License-Identifier: Apache-2.0
"""Prompts as text states per interval of diffusion time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from transformers import CLIPTokenizer

from mrti_jax.concept import (
    Concept,
    by_name,
    encode_prompts,
    interval_boundaries,
    placeholder_ids,
    splice,
)
from mrti_jax.concept.encode import EncodedPrompts
from mrti_jax.errors import UserError
from mrti_jax.models.clip import CLIPTextModel
from mrti_jax.models.frozen import Frozen
from mrti_jax.models.text_encoder import TextEncoder

Encode = Callable[..., np.ndarray]


@pytest.fixture
def encode(
    tokenizer: CLIPTokenizer, text_encoder: Frozen[TextEncoder]
) -> Callable[..., EncodedPrompts]:
    def run(texts: list[str], concepts: list[Concept], **options: object) -> EncodedPrompts:
        boundaries = interval_boundaries(concepts, 1000)
        return encode_prompts(
            texts,
            by_name(concepts),
            [tokenizer],
            text_encoder,
            boundaries,
            **options,  # type: ignore[arg-type]
        )

    return run


@pytest.fixture
def states(encode: Callable[..., EncodedPrompts]) -> Encode:
    def run(texts: list[str], concepts: list[Concept], **options: object) -> np.ndarray:
        encoded = encode(texts, concepts, **options)
        assert encoded.distinct.pooled is None
        return np.asarray(encoded.of(np.arange(len(texts))).hidden)

    return run


def test_equals_the_encoder_with_the_word_in_its_place(
    states: Encode,
    tokenizer: CLIPTokenizer,
    text_model: Frozen[CLIPTextModel],
    make_concept: Callable[..., Concept],
) -> None:
    concept = make_concept(num_vectors=2)
    result = states(["a photo of <jane[3]> in red", "the dog"], [concept])
    assert result.shape == (10, 2, 20, 16)
    encoder = text_model.bind(text_model.params)
    ids, index, _ = placeholder_ids("a photo of {} in red", 2, tokenizer)
    for interval in range(10):
        embeddings = np.array(encoder.embed(jnp.asarray(ids)[None]))
        embeddings[0, index >= 0] = concept.embeddings[max(interval, 3)]
        expected = encoder.encode(jnp.asarray(embeddings))
        # The same float32 arithmetic in another batch size.
        np.testing.assert_allclose(result[interval, 0], expected[0], atol=1e-5)
    plain = tokenizer("the dog", padding="max_length")["input_ids"]
    expected = encoder.encode(encoder.embed(jnp.asarray([plain])))
    for interval in range(10):
        np.testing.assert_allclose(result[interval, 1], expected[0], atol=1e-5)


def test_identities_to_the_bit(states: Encode, make_concept: Callable[..., Concept]) -> None:
    concepts = [make_concept()]
    bare = states(["a <jane>"], concepts)
    assert len(np.unique(bare[:, 0, 2], axis=0)) == 10
    for same in ("a <jane[0]>", "a <jane(0)>", "a <jane[0.0]>"):
        assert np.array_equal(states([same], concepts), bare)
    fixed = states(["a <jane|9|>"], concepts)
    for same in ("a <jane[9]>", "a <jane[1.0]>", "a <jane|0.95|>"):
        assert np.array_equal(states([same], concepts), fixed)
    assert (fixed == fixed[:1]).all()


def test_each_distinct_sequence_is_encoded_once(
    encode: Callable[..., EncodedPrompts], make_concept: Callable[..., Concept]
) -> None:
    jane, star = make_concept("jane"), make_concept("star", 3)

    def count(texts: list[str], concepts: list[Concept], **options: object) -> int:
        return len(encode(texts, concepts, **options).distinct.hidden)

    assert count(["a dog", "", "a dog"], [jane]) == 2
    assert count(["a <jane>", "", "a <jane[0]>", "a <jane[7]>"], [jane]) == 11  # rows, and ""
    assert count(["a <jane(7)>", "a <jane|7|>"], [jane]) == 4  # rows 7, 8, 9 and nothing
    assert count(["a <jane|2|> and <star>"], [jane, star]) == 3  # rows of star
    assert count(["a <jane(5)>", "a"], [jane], nothing="drop") == 6  # rows 5 to 9 and nothing


def test_a_second_prompt_compiles_nothing(
    states: Encode, compilations: list[str], make_concept: Callable[..., Concept]
) -> None:
    jane = make_concept("jane")
    jax.jit(lambda x: x + len(compilations))(1)
    assert compilations, "the counter counts"
    states(["a dog", ""], [])
    compilations.clear()
    states(["a <jane> and <jane(3)>", "red"], [jane])
    states(["a <jane[0.4]>", ""], [jane], nothing="drop")
    assert states(["a <jane>", "<one>"], [jane, make_concept("one", 1, 3)]).shape[0] == 10
    assert compilations == []


def test_intervals(make_concept: Callable[..., Concept]) -> None:
    ten = list(range(0, 1001, 100))
    for buckets in ((), (10,), (1,), (2, 5), (10, 1)):
        concepts = [make_concept(f"c{i}", n) for i, n in enumerate(buckets)]
        assert interval_boundaries(concepts, 1000).tolist() == ten
    both = interval_boundaries([make_concept("a", 3), make_concept("b", 10)], 1000)
    assert both.tolist() == sorted([*ten, 334, 667])
    three = interval_boundaries([make_concept("a", 3)], 1000).tolist()
    assert len(three) == 11 and {0, 334, 667, 1000} <= set(three)
    assert three == sorted(set(three))
    assert interval_boundaries([], 4).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=r"'a' was trained with 500 .* has 1000"):
        interval_boundaries([make_concept("a", num_train_timesteps=500)], 1000)


def test_padded_intervals_use_the_right_rows(
    states: Encode, make_concept: Callable[..., Concept]
) -> None:
    concept = make_concept("jane", 3)
    boundaries = interval_boundaries([concept], 1000)
    result = states(["<jane>"], [concept])
    fixed = [states([f"<jane|{k}|>"], [concept])[0] for k in range(3)]
    for interval, start in enumerate(boundaries[:-1]):
        np.testing.assert_allclose(result[interval], fixed[start * 3 // 1000], atol=1e-5)


def test_cut_is_told_once_a_prompt(states: Encode, make_concept: Callable[..., Concept]) -> None:
    first, second, third = "a " * 18 + "<jane>", "cat " * 19, "cat " * 19 + "red " * 100
    with pytest.warns(UserWarning, match="longer than 20 tokens") as warned:
        states([first, "dog", first, second, first, third], [make_concept()])
    told = [str(w.message) for w in warned]
    assert told[:2] == [
        f"the prompt {first!r} is longer than 20 tokens, cut off: '<jane>' "
        "(without effect: <jane>)",
        f"the prompt {second!r} is longer than 20 tokens, cut off: 'cat '",
    ]
    in_short = "cat " * 10 + " ... " + "red " * 10
    assert len(told) == 3 and told[2].startswith(f"the prompt {in_short!r} is longer than")


def test_what_does_not_fit_the_model(
    states: Encode,
    tokenizer: CLIPTokenizer,
    text_encoder: Frozen[TextEncoder],
    make_concept: Callable[..., Concept],
) -> None:
    with pytest.raises(UserError, match=r"width 24, .* has 16: use its base model, mini, or"):
        states(["a"], [make_concept(width=24, base_model="mini")])
    other = by_name([make_concept(num_train_timesteps=500)])
    with pytest.raises(UserError, match=r"500 diffusion timesteps, .* has 1000"):
        encode_prompts(["a"], other, [tokenizer], text_encoder, interval_boundaries([], 1000))
    with pytest.raises(UserError, match="unknown concept word <jan>"):
        states(["a <jan>"], [make_concept()])
    # Type checking, where it is on, comes first.
    with pytest.raises((UserError, TypeCheckError)):
        states(["a"], [make_concept()], nothing="none")
    with pytest.raises(UserError, match="no prompt"):
        states([], [])


def test_splice_and_its_gradient() -> None:
    rng = np.random.default_rng(0)
    embeddings = jnp.asarray(rng.standard_normal((2, 5, 3)), jnp.float32)
    table = jnp.asarray(rng.standard_normal((2, 2, 3)), jnp.float32)
    index = jnp.asarray([[-1, 0, 1, -1, -1], [1, -1, -1, 0, 0]])
    expected = np.array(embeddings)
    for b, position in np.ndindex(2, 5):
        if index[b, position] >= 0:
            expected[b, position] = table[b, index[b, position]]

    def run(embeddings: jax.Array, rows: jax.Array) -> jax.Array:
        """As for two text models, of widths 1 and 2."""
        parts = [embeddings[..., :1], embeddings[..., 1:]]
        return jnp.concatenate(splice(parts, jnp.stack([index, index], axis=1), rows), axis=-1)

    assert np.array_equal(jax.jit(run)(embeddings, table), expected)
    weights = jnp.asarray(rng.standard_normal((2, 5, 3)), jnp.float32)
    grad = jax.grad(lambda rows: jnp.sum(weights * run(embeddings, rows)))(table)
    assert np.array_equal(grad[0], weights[0, 1:3])
    np.testing.assert_allclose(grad[1, 0], weights[1, 3] + weights[1, 4], rtol=1e-6)
    assert np.array_equal(grad[1, 1], weights[1, 0])
    assert run(embeddings.astype(jnp.bfloat16), table).dtype == jnp.bfloat16
