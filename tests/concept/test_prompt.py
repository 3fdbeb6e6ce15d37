# SPDX-License-Identifier: Apache-2.0
"""The prompt grammar."""

import random
import time
from typing import Any

import pytest

from mrti_jax.concept import Prompt, Word, parse
from mrti_jax.errors import UserError


def test_the_four_forms() -> None:
    prompt = parse("a <jane>, <jane[3]> <jane(0.3)>and<a_b-2|7|>")
    assert prompt.parts == (
        "a ",
        Word("jane"),
        ", ",
        Word("jane", "fully", 3),
        " ",
        Word("jane", "semi", 0.3),
        "and",
        Word("a_b-2", "fixed", 7),
    )
    assert [word.name for word in prompt.words] == ["jane", "jane", "jane", "a_b-2"]


def test_a_decimal_point_makes_a_resolution() -> None:
    bucket, resolution = parse("<x[1]><x[1.0]>").words
    assert bucket.argument == 1 and isinstance(bucket.argument, int)
    assert resolution.argument == 1.0 and isinstance(resolution.argument, float)
    assert [w.argument for w in parse("<x[.5]><x[0.]><x[08]>").words] == [0.5, 0.0, 8]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a < b",
        "i <3 you",
        "[x] (emphasis) |y|",
        "naïve 画 🎨 <é> ‹jane›",  # noqa: RUF001
        "</b> <br/> < jane > <jane> <",
        "<|startoftext|>",
        "<lora:film:0.8>",
        "x<y and {a|b}",
        "two\nlines\t<jane",
        "<" * 50,
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    prompt = parse(text)
    assert str(prompt) == text
    assert all(word == Word("jane") for word in prompt.words)


def test_text_and_prompt_are_inverse() -> None:
    rng = random.Random(0)
    text_pieces = ["a photo of ", "<", "< b", "[3]", "(x)", "|", "é", "<1", "</", ", ", "\n", ">"]
    for _ in range(3000):
        parts: list[str | Word] = []
        for _ in range(rng.randrange(6)):
            name = rng.choice(["jane", "j", "A_b-9"])
            scheme: Any = rng.choice(["text", "bare", "fully", "semi", "fixed"])
            if scheme == "text":
                piece = rng.choice(text_pieces)
                if parts and isinstance(parts[-1], str):
                    parts[-1] += piece
                else:
                    parts.append(piece)
            elif scheme == "bare":
                parts.append(Word(name))
            else:
                argument = rng.choice([rng.randrange(100), rng.random(), 1e-5, 0.0, 1.0])
                parts.append(Word(name, scheme, argument))
        prompt = Prompt(tuple(parts))
        assert parse(str(prompt)) == prompt
        assert str(parse(str(prompt))) == str(prompt)


@pytest.mark.parametrize(
    ("text", "problem", "marked"),
    [
        ("a <jane[", "expected a bucket", '"a <jane[^"'),
        ("a <jane[3)> b", "expected ']>'", '"a <jane[3^)> b"'),
        ("<jane[x]>", "expected a bucket", '"<jane[^x]>"'),
        (
            "a <jane({k})>",
            "{k} is filled in only by --grid (in Python: mrti_jax.sweep)",
            '"a <jane(^{k})>"',
        ),
        ("<jane[]>", "expected a bucket", '"<jane[^]>"'),
        ("<jane[-1]>", "expected a bucket", '"<jane[^-1]>"'),
        ("<jane[1.5]>", "above 1.0", '"<jane[^1.5]>"'),
        ("<jane[1e3]>", "expected ']>'", '"<jane[1^e3]>"'),
        ("<jane[2:7]>", "expected ']>'", '"<jane[2^:7]>"'),
        ("<jane[3]", "expected ']>'", '"<jane[3^]"'),
        ("<jane|3>", "expected '|>'", '"<jane|3^>"'),
        ("<jane(0.5]>", "expected ')>'", '"<jane(0.5^]>"'),
        ("<jane[" + "1" * 5000 + "]>", "too long", '"<jane[^11111111111111111111..."'),
        ("<" + "j" * 65 + ">", "at most 64", '"<^jjjjjjjjjjjjjjjjjjjj..."'),
        ("one\n<jane[x]>", "column 11", '"one <jane[^x]>"'),
        (40 * "long " + "<jane[x]>", "column 207", '"...ong long long long long <jane[^x]>"'),
    ],
)
def test_malformed_words_point_to_the_place(text: str, problem: str, marked: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text)
    message = str(error.value)
    assert "\n" not in message and problem in message
    assert message.endswith(marked)


@pytest.mark.parametrize("unit", ["<", "<a", "a", "<a ", "< a[", "<jane>", "<jane[3]>", "é "])
def test_long_prompts_take_linear_time(unit: str) -> None:
    text = (unit * 200_000)[:200_000] + "."
    start = time.process_time()
    try:
        assert str(parse(text)) == text
    except UserError:  # the cut left half a word at the end
        assert unit.startswith("<jane")
    # Quadratic time would take minutes.
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "arguments",
    [
        ("",),
        ("9lives",),
        ("a b",),
        ("jané",),
        ("jane\n",),
        ("x" * 65,),
        ("jane", "bare", 3),
        ("jane", "fully"),
        ("jane", "fully", True),
        ("jane", "semi", -1),
        ("jane", "fixed", 1.5),
        ("jane", "fixed", float("nan")),
    ],
)
def test_words_that_can_not_be_written(arguments: tuple) -> None:
    with pytest.raises(UserError):
        Word(*arguments)
