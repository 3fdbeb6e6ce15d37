# SPDX-License-Identifier: Apache-2.0
"""What a concept word asks for: which row of its table is used in which bucket."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NoReturn

from mrti_jax.concept.buckets import resolution_to_bucket
from mrti_jax.concept.prompt import NAME, Prompt, Word, malformed, parse
from mrti_jax.concept.table import Concept
from mrti_jax.errors import UserError, nearest

# Tags that occur in ordinary text, often unclosed, and that nobody would name a concept after.
_TAG = re.compile(
    "a|b|br|div|em|h[1-6]|hr|i|img|li|ol|p|pre|q|s|span|strong|sub|sup|td|th|tr|tt|u|ul", re.I
)

_NO_WORD = re.compile(rf"(?<!\\)(?P<escape>\\*+)<(?P<name>{NAME})(?![>\[(|])")
_OUTSIDE = re.compile(
    rf"(?<!\\)(?:\\\\)*+<(?P<name>{NAME})(?:[\[(|][0-9.]+[\])|])?>"
    r"(?P<number>\[[0-9.]+\]|\([0-9.]+\)|\|[0-9.]+\|)"
)
# What is neither HTML nor the prompt syntax of other tools, such as <lora:name:1>.
_SLIP = re.compile(r"\s*+[:=;/]?\s*+(?:[\[({|][^<>]*|[0-9.]+\s*+[\])}|]?)>")


def word_bucket(word: Word, num_buckets: int) -> int:
    """Bucket k that the word names (0 if bare). Raises UserError if the table has no bucket k."""
    if word.argument is None:
        return 0
    if isinstance(word.argument, float):
        return resolution_to_bucket(word.argument, num_buckets)
    if word.argument >= num_buckets:
        plural = "bucket" if num_buckets == 1 else "buckets"
        raise UserError(
            f"{word}: concept '{word.name}' has {num_buckets} {plural}, so the bucket must lie "
            f"between 0 and {num_buckets - 1} (a resolution is written with a decimal point)"
        )
    return word.argument


def rows(word: Word, num_buckets: int, official_semi: bool = False) -> tuple[int | None, ...]:
    """Row of the table that the word uses at each bucket b = 0 .. N - 1; None if it uses none.

    fully: max(b, k); semi: b where b >= k; fixed: k; bare: b (Daras & Dimakis 2022,
    arXiv 2211.17115, section 3). `official_semi`: b > k, as in the code of the paper's authors.
    """
    k = word_bucket(word, num_buckets)
    buckets = range(num_buckets)
    match word.scheme:
        case "fixed":
            return (k,) * num_buckets
        case "semi":
            first = k + 1 if official_semi else k
            return tuple(b if b >= first else None for b in buckets)
        case _:  # fully; bare is fully at k = 0
            return tuple(max(b, k) for b in buckets)


def read_prompt(text: str, concepts: Mapping[str, Concept]) -> Prompt:
    """`read_words` of the concepts' names; UserError also for a bucket that a table lacks."""
    prompt = read_words(text, concepts)
    for word in prompt.words:
        word_bucket(word, concepts[word.name].num_buckets)
    return prompt


def read_words(text: str, names: Collection[str]) -> Prompt:
    """Parses a prompt whose words are among `names`; HTML tags that are not are text.

    A tag is one that the prompt closes (`<x>...</x>`), or a common formatting tag (`<b>`). Raises
    UserError for a malformed or unknown word, and a name after `<` that no word's bracket follows;
    also for one similar to a name if a number or another kind of bracket follows (`<jnae:0.8>`).
    A backslash makes text of these, too. Also for brackets with a number right after a word.
    """
    parts: list[str | Word] = []
    for part in parse(text).parts:
        if isinstance(part, Word):
            if part.name in names:
                parts.append(part)
                continue
            if part.scheme != "bare" or not _is_tag(part.name, text):
                _unknown(part, names)
            part = str(part)
        if parts and isinstance(parts[-1], str):  # one text, so that it is tokenized as one
            parts[-1] += part
        else:
            parts.append(part)
    for match, hint in _slips(text, names, text):
        if len(match["escape"]) % 2 == 0:
            name, end = match["name"], match.end()
            expected = f"expected '>', '[', '(' or '|' after '<{name}'"
            malformed(text, end, expected, f"; for text, write \\<{name}{hint}")
    for match in _OUTSIDE.finditer(text):
        if (name := match["name"]) in names:
            inside = f"write <{name}{match['number']}>, with the brackets inside"
            malformed(text, match.start("number"), inside)
    return Prompt(
        tuple(_unescaped(part, names, text) if isinstance(part, str) else part for part in parts)
    )


def _is_tag(name: str, text: str) -> bool:
    return bool(_TAG.fullmatch(name)) or f"</{name}>" in text


def _unknown(word: Word, names: Collection[str]) -> NoReturn:
    if not names:
        raise UserError(
            f"no concept is loaded, so {word} means nothing: load it (--concept runs/{word.name}), "
            f"or write \\{word} for the text itself"
        )
    known = ", ".join(sorted(names))
    hint = nearest(word.name, names)
    raise UserError(
        f"unknown concept word {word} (known concepts: {known}), write \\{word} for the text "
        f"itself{hint}"
    )


def _slips(text: str, names: Collection[str], prompt: str) -> Iterator[tuple[re.Match[str], str]]:
    """Where a text of the prompt has a concept's name, or one similar, without a word's bracket;
    and the name that may be meant."""
    for match in _NO_WORD.finditer(text):
        name = match["name"]
        known = name in names
        slip = not known and _SLIP.match(text, match.end()) and not _is_tag(name, prompt)
        hint = nearest(name, names) if slip else ""
        if known or hint:
            yield match, hint


def _unescaped(text: str, names: Collection[str], prompt: str) -> str:
    """The text without the backslashes that make text of slips."""
    for match, _ in reversed(list(_slips(text, names, prompt))):
        start, end = match.span("escape")
        text = text[:start] + match["escape"][: (end - start) // 2] + text[end:]
    return text
