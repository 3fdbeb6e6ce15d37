# SPDX-License-Identifier: Apache-2.0
"""Prompts as token ids with concept vectors between them."""

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from transformers import AddedToken, CLIPTokenizer

from mrti_jax.concept import (
    OBJECT_TEMPLATES,
    STYLE_TEMPLATES,
    Concept,
    by_name,
    parse,
    placeholder_ids,
    tokenize,
)
from mrti_jax.concept.tokens import Tokens
from mrti_jax.errors import UserError

WIDTH = 16


def tokens_at(
    text: str, timestep: int, concepts: list[Concept], tokenizer: CLIPTokenizer, **options: object
) -> Tokens:
    named = by_name(concepts)
    return tokenize(parse(text), timestep, named, tokenizer, columns=slice(0, WIDTH), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "a photo of <jane>",
        "<jane> in the house",
        "<jane>",
        "A  Photo of\n<jane>'s dog,<jane>and cat",
        "painting<jane><jane>red",
        "(<jane>) é",
        "the dog",
        "",
    ],
)
def test_same_as_a_special_token_in_the_words_place(
    text: str, tokenizer: CLIPTokenizer, make_concept: Callable[..., Concept]
) -> None:
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken("<jane>", special=True, normalized=False)], True)
    jane = extended.convert_tokens_to_ids("<jane>")
    expected = np.asarray(
        extended(text, padding="max_length", truncation=True)["input_ids"], np.int32
    )
    tokens = tokens_at(text, 0, [make_concept()], tokenizer)
    assert tokens.mask.tolist() == (expected == jane).tolist()
    assert tokens.ids[~tokens.mask].tolist() == expected[~tokens.mask].tolist()
    assert tokens.num_cut == 0 and tokens.cut == ""


def test_several_words_concepts_and_vectors(
    tokenizer: CLIPTokenizer, make_concept: Callable[..., Concept]
) -> None:
    jane, star = make_concept("jane", 10, 1), make_concept("star", 3, 2)
    text = "a <star> and <jane[0.8]> <star|0|>"
    for timestep, star_row, jane_row in ((0, 0, 8), (333, 0, 8), (334, 1, 8), (999, 2, 9)):
        tokens = tokens_at(text, timestep, [jane, star], tokenizer)
        # BOS a * * and * * * EOS
        assert np.flatnonzero(tokens.mask).tolist() == [2, 3, 5, 6, 7]
        expected = [*star.embeddings[star_row], *jane.embeddings[jane_row], *star.embeddings[0]]
        assert np.array_equal(tokens.vectors[tokens.mask], expected)
        assert not tokens.vectors[~tokens.mask].any()


def test_three_kinds_of_nothing(
    tokenizer: CLIPTokenizer, make_concept: Callable[..., Concept]
) -> None:
    concept = make_concept(num_vectors=2, initializer="dog")
    text = "a photo of <jane(3)> in red"
    there = tokens_at(text, 300, [concept], tokenizer)
    zero = tokens_at(text, 299, [concept], tokenizer)
    assert np.array_equal(zero.ids, there.ids) and np.array_equal(zero.mask, there.mask)
    assert there.vectors.any() and not zero.vectors.any()
    for nothing, plain in (("drop", "a photo of in red"), ("initializer", "a photo of dog in red")):
        tokens = tokens_at(text, 299, [concept], tokenizer, nothing=nothing)
        assert tokens.key == tokens_at(plain, 299, [], tokenizer).key
        assert tokens_at(text, 300, [concept], tokenizer, nothing=nothing).key == there.key
    with pytest.raises(UserError, match="does not say what word it was initialised from"):
        tokens_at(text, 299, [make_concept()], tokenizer, nothing="initializer")


def test_official_semi(tokenizer: CLIPTokenizer, make_concept: Callable[..., Concept]) -> None:
    concepts = [make_concept()]
    assert tokens_at("<jane(3)>", 300, concepts, tokenizer).vectors.any()
    assert not tokens_at("<jane(3)>", 300, concepts, tokenizer, official_semi=True).vectors.any()


def test_the_end_is_the_first_end_token_that_is_text(
    tokenizer: CLIPTokenizer, make_concept: Callable[..., Concept]
) -> None:
    """As for transformers, whose pooled states are those of the first one."""
    tokens = tokens_at(f"<jane> a {tokenizer.eos_token} b", 0, [make_concept("jane")], tokenizer)
    assert tokens.ids[tokens.end] == tokenizer.eos_token_id
    assert tokens.end == 3 and tokens.mask.tolist().index(True) == 1


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("a " * 18, ""),
        ("a " * 17 + "<two>", "'<two>' (only 1 of the 2 vectors of <two> fit)"),
        ("a " * 16 + "<two>", ""),
        ("a " * 18 + "Dog and  Cat", "'Dog and  Cat'"),
        ("a " * 18 + "<jane[2]> x <two>", "'<jane[2]> x <two>' (without effect: <jane[2]>, <two>)"),
        (
            "a " * 17 + "<two> red <jane>",
            "'<two> red <jane>' (only 1 of the 2 vectors of <two> fit) (without effect: <jane>)",
        ),
        (
            "<jane> " + "dog " * 17 + "house, red <two>",
            "'house, red <two>' (without effect: <two>)",
        ),
    ],
)
def test_cut(
    text: str, cut: str, tokenizer: CLIPTokenizer, make_concept: Callable[..., Concept]
) -> None:
    concepts = [make_concept("jane"), make_concept("two", num_vectors=2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = tokens_at(text, 0, concepts, tokenizer)
    assert len(tokens.ids) == 20 and tokens.ids[-1] == tokenizer.eos_token_id
    assert tokens.cut == cut and (tokens.num_cut > 0) == bool(cut)


def test_a_very_long_prompt_is_named_in_short(tokenizer: CLIPTokenizer) -> None:
    tokens = tokens_at("dog " * 5000, 0, [], tokenizer)
    assert tokens.num_cut == 5000 - 18 and len(tokens.cut) < 400


def test_placeholder(tokenizer: CLIPTokenizer, make_concept: Callable[..., Concept]) -> None:
    for template in (*OBJECT_TEMPLATES[:2], "{}", "{} and {}"):
        ids, index, end = placeholder_ids(template, 2, tokenizer)
        text = template.replace("{}", "<jane>")
        tokens = tokens_at(text, 0, [make_concept(num_vectors=2)], tokenizer)
        assert ids.tolist() == tokens.ids.tolist() and end == tokens.end
        count = template.count("{}")
        assert index[index >= 0].tolist() == [0, 1] * count
        assert ((index >= 0) == tokens.mask).all()


def test_captions_without_room_for_the_word(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(UserError, match=r"has no \{\}"):
        placeholder_ids("a photo", 1, tokenizer)
    placeholder_ids("a " * 17 + "{}", 1, tokenizer)
    for template, vectors in (("a " * 18 + "{}", 1), ("a " * 17 + "{}", 2), ("a " * 19 + "{}", 1)):
        with pytest.raises(UserError, match="does not fit"):
            placeholder_ids(template, vectors, tokenizer)
    with pytest.warns(UserWarning, match="cut off: 'red House'"):
        ids, index, end = placeholder_ids("a {} " + "dog " * 16 + "red House", 1, tokenizer)
    assert len(ids) == len(index) == 20 and ids[-1] == tokenizer.eos_token_id and end == 19


def test_templates() -> None:
    assert (len(OBJECT_TEMPLATES), len(STYLE_TEMPLATES)) == (27, 19)
    for template in OBJECT_TEMPLATES + STYLE_TEMPLATES:
        assert template.count("{}") == 1
