# SPDX-License-Identifier: Apache-2.0
"""What a concept word asks for: which row of its table is used in which bucket."""

import re
from collections.abc import Mapping
from typing import NoReturn

from mrti_jax.concept.buckets import resolution_to_bucket
from mrti_jax.concept.prompt import NAME, Prompt, Word, parse
from mrti_jax.concept.table import Concept
from mrti_jax.errors import UserError, nearest

# Those that stand in ordinary text, often unclosed, and that nobody would name a concept.
_TAG = re.compile(
    "a|b|br|div|em|h[1-6]|hr|i|img|li|ol|p|pre|q|s|span|strong|sub|sup|td|th|tr|tt|u|ul", re.I
)


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
    """Row of the table that the word uses at each bucket b = 0 .. N - 1; None is nothing.

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
    """Parses a prompt whose words are among `concepts`; HTML tags that name none are text.

    A tag is what the prompt closes again (`<x>...</x>`), or a common one of formatting (`<b>`).
    Raises UserError for a malformed or unknown word, one that names a bucket that isn't there, and
    one that isn't closed.
    """
    parts: list[str | Word] = []
    for part in parse(text).parts:
        if isinstance(part, Word):
            if part.name in concepts:
                word_bucket(part, concepts[part.name].num_buckets)
                parts.append(part)
                continue
            if not _is_tag(part, text):
                _unknown(part, concepts)
            part = str(part)
        if parts and isinstance(parts[-1], str):  # one text, so that it is tokenized as one
            parts[-1] += part
        else:
            parts.append(part)
    prompt = Prompt(tuple(parts))
    for text_part in prompt.parts:
        if isinstance(text_part, str):
            _check_closed(text_part, concepts)
    return prompt


def _is_tag(word: Word, text: str) -> bool:
    is_tag = _TAG.fullmatch(word.name) or f"</{word.name}>" in text
    return word.scheme == "bare" and bool(is_tag)


def _unknown(word: Word, concepts: Mapping[str, Concept]) -> NoReturn:
    known = ", ".join(sorted(concepts)) or "none is loaded"
    hint = nearest(word.name, concepts)
    raise UserError(
        f"unknown concept word {word} (known concepts: {known}).{hint} "
        f"For the text {word} itself, write \\{word}"
    )


def _check_closed(text: str, concepts: Mapping[str, Concept]) -> None:
    for match in re.finditer(rf"<({NAME})(?![>\[(|])", text):
        if match[1] in concepts:
            raise UserError(f"the concept word '{match[0]}' isn't closed: write '{match[0]}>'")
