# SPDX-License-Identifier: Apache-2.0
"""Generated cases: a few hundred in an ordinary test run, all of them with `FUZZ=full`.

How many cases each test ran is printed at the end of the run.
"""

import collections
import functools
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrti_jax.errors import UserError

FULL = os.environ.get("FUZZ") == "full"
MOST_SECONDS = 30  # of the processor, for a case
ran: collections.Counter[str] = collections.Counter()
"""Cases by the name of their test."""


def cases(*strategies: Any, quick: int, full: int) -> Callable:
    """`hypothesis.given`, the same cases in every run; each must end within `MOST_SECONDS`."""

    def decorate(test: Callable) -> Callable:
        @settings(
            max_examples=full if FULL else quick,
            deadline=None,  # it is wall time, which means little on a busy machine
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(*strategies)
        @functools.wraps(test)
        def counted(*arguments: Any, **keywords: Any) -> None:
            ran[test.__name__] += 1
            start = time.process_time()
            test(*arguments, **keywords)
            assert time.process_time() - start < MOST_SECONDS

        return counted

    return decorate


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """The content of a file, cut, overwritten, stretched or with other bytes inserted."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        # Half of the damage is in the first bytes, where headers are.
        at = at % 256 if draw(st.booleans()) else at
        some = draw(st.binary(min_size=1, max_size=16) | st.sampled_from(EXTREMES))
        match draw(st.sampled_from(["overwrite", "flip", "insert", "cut", "drop", "repeat"])):
            case "overwrite":
                content[at : at + len(some)] = some
            case "flip" if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                content[at:at] = some
            case "cut":
                del content[at:]
            case "drop":
                del content[at : at + len(some)]
            case "repeat":
                content[at:at] = content[at : at + 64]
    return bytes(content)


EXTREMES = [
    b"\xff" * 8,
    b"\x00" * 8,
    (2**62).to_bytes(8, "little"),
    (2**31 - 1).to_bytes(4, "big"),
    b"99999999999999",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b'"../../x"',
    b"[" * 2000,
]


def result(read: Callable[[], Any]) -> Any:
    """What is read, or None for an error of ours, which is one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except UserError as error:
            message = str(error)
    assert message and "\n" not in message and len(message) < 2000, message[:3000]
    return None
