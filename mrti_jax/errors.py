# SPDX-License-Identifier: Apache-2.0
"""What the user is told when something is wrong: one line, saying what, where and what to do."""

import difflib
import inspect
import operator
import warnings
from collections.abc import Iterable, Sequence
from reprlib import repr as brief  # a value from a file may be endless
from typing import Any


class UserError(ValueError):
    """Input that can't be used; the message is one line, which commands print (status 2)."""


class Preempted(Exception):
    """The run was told to stop and has saved its state; the same command resumes from there."""


def warn(message: str) -> None:
    """Warns the user of something that works but is probably not what they want.

    The warning is of the line outside this package that led to it.
    """
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("mrti_jax."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def check_word(what: str, value: object, known: Sequence[str]) -> None:
    """Raises UserError, which begins with `what`, unless the value is one of the known words."""
    if value not in known:
        raise UserError(
            f"{what} is {shown(value)}, but must be one of {', '.join(known)}"
            f"{nearest(str(value)[:80], known)}"
        )


def whole(what: str, value: Any) -> int:
    """An integer of any type as Python's own. Raises UserError, which begins with `what`, for other
    values."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{what} must be a whole number, not {shown(value)}") from None


def check_interval(what: str, value: Any) -> None:
    """Raises UserError, which begins with `what`, unless the value is two numbers from 0 to 1, the
    lower first."""
    try:
        lower, upper = map(float, value)
    except (TypeError, ValueError):
        lower = upper = 0.0
    if not 0 <= lower < upper <= 1:
        raise UserError(
            f"{what} is {shown(value)}, but must be two numbers from 0 to 1, the lower first"
        )


def shown(value: object) -> str:
    """A value as a message shows it, in brief."""
    return "empty" if value is None else brief(value)


def shorten(text: str, longest: int = 300) -> str:
    """The text, without its middle if it has more than `longest` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {text[-half:]}"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word that begins with `word` or is most similar to it, or
    an empty string."""
    lowered = {one.lower(): one for one in known}
    begin = [one for one in lowered if word and one.startswith(word.lower())]
    matches = begin or difflib.get_close_matches(word.lower(), lowered, n=1)
    return f"; did you mean '{lowered[matches[0]]}'?" if matches else ""
