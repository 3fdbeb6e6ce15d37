# SPDX-License-Identifier: Apache-2.0
"""What a concept word asks for: which row of its table is used in which bucket."""

import re
from collections.abc import Mapping

from mrti_jax.concept.buckets import resolution_to_bucket
from mrti_jax.concept.prompt import NAME, Prompt, Word
from mrti_jax.concept.table import Concept
from mrti_jax.errors import UserError, nearest


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


def check_words(prompt: Prompt, concepts: Mapping[str, Concept]) -> None:
    """Raises UserError if a word is unknown, names a bucket that isn't there, or isn't closed."""
    known = ", ".join(sorted(concepts)) or "none is loaded"
    for part in prompt.parts:
        if isinstance(part, Word):
            if part.name not in concepts:
                hint = nearest(part.name, concepts)
                raise UserError(f"unknown concept word {part} (known concepts: {known}).{hint}")
            word_bucket(part, concepts[part.name].num_buckets)
            continue
        for match in re.finditer(rf"<({NAME})", part):
            if match[1] in concepts:
                raise UserError(f"the concept word '{match[0]}' isn't closed: write '{match[0]}>'")
