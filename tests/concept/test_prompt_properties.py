# SPDX-License-Identifier: Apache-2.0
"""The prompt grammar on generated prompts; 100,000 and more of them with `FUZZ=full`."""

import re

from fuzz import cases
from hypothesis import strategies as st

from mrti_jax.concept import Prompt, Word, parse
from mrti_jax.errors import UserError

PIECES = [
    *"<>[]()|.\\/0179 aé画🎨\n\t\0",
    *("<jane", "<jane>", "<jane[3]>", "<jane(0.5)>", "<jane|7|>", "\\<jane>", "<b>", "</b>", "<3"),
    *("a < b", "(emphasis)", "((a:1.2))", "[x|y]", "<lora:x:0.8>", '<a href="x">', "&lt;", "1e5"),
]
# Text that looks as much like the grammar as possible, and any text at all.
prompts = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=200)

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,63}", fullmatch=True)
arguments = st.integers(0, 10**6) | st.floats(0, 1)
words = st.tuples(names) | st.tuples(names, st.sampled_from(["fully", "semi", "fixed"]), arguments)
texts = prompts.filter(bool)

NO_WORD = re.compile(r"<[A-Za-z][A-Za-z0-9_-]*[>\[(|]")


def canonical(parts: list[str | tuple]) -> Prompt:
    """A prompt in which no two texts are adjacent."""
    kept: list[str | Word] = []
    for part in parts:
        if isinstance(part, tuple):
            kept.append(Word(*part))
        elif not (kept and isinstance(kept[-1], str)):
            kept.append(part)
    return Prompt(tuple(kept))


def marked_place(message: str) -> tuple[int, str]:
    """The column that an error names, and what follows the caret in its excerpt."""
    column = re.search(r"at column (\d+) of ", message)
    assert column, message
    return int(column[1]), message[column.end() :].split("^", 1)[1]


@cases(prompts, quick=300, full=60_000)
def test_any_prompt_is_parsed_or_refused_where_it_is_wrong(text: str) -> None:
    try:
        prompt = parse(text)
    except UserError as error:
        message = str(error)
    else:
        message = ""
    if message:
        column, after = marked_place(message)
        rest = " ".join(text[column - 1 :].split())
        assert 0 < column <= len(text) + 1 and "\n" not in message
        assert rest[:5].strip() == after.removesuffix('"').lstrip()[:5].strip()
        return
    written = str(prompt)
    assert parse(written) == prompt
    assert str(parse(written)) == written


@cases(st.lists(words | texts, max_size=8), quick=300, full=40_000)
def test_parse_and_print_are_inverse(parts: list[str | tuple]) -> None:
    prompt = canonical(parts)
    assert parse(str(prompt)) == prompt


@cases(prompts, quick=300, full=20_000)
def test_text_without_words_stays_as_it_is(text: str) -> None:
    text = NO_WORD.sub("", text)
    if NO_WORD.search(text):  # what was left around a word may be one
        return
    assert parse(text).parts == ((text,) if text else ())


@cases(prompts, quick=100, full=5_000)
def test_any_text_can_be_escaped(text: str) -> None:
    prompt = Prompt((text,) if text else ())
    assert parse(str(prompt)) == prompt


def test_ten_thousand_characters() -> None:
    text = ("naïve <3 a < b [x] (y) </b> 画🎨 \\ " * 400)[:10_000]
    assert parse(text).parts == (text,)
