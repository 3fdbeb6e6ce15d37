# SPDX-License-Identifier: Apache-2.0
"""A command's flags: its arguments as a dataclass, and what is wrong with them in one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from mrti_jax.errors import UserError

Flags = TypeVar("Flags")

_MOST_MEANT = 3


def read_flags(flags_type: type[Flags], argv: Sequence[str] | None, **options: Any) -> Flags:
    """The flags in `argv`, the process's own arguments if None; `options` are those of `tyro.cli`.

    Raises UserError for flags that can't be read; `--help` leaves by SystemExit.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(flags_type, args=None if argv is None else list(argv), **options)
    except SystemExit as ended:
        if ended.code != 2:
            raise
    raise UserError(_without_box(told.getvalue()))


def _without_box(text: str) -> str:
    """What tyro says in a box of many lines: the problem, and the flags that may be meant."""
    lines = text.splitlines()
    inside = [line for line in lines if line.startswith("│")]
    # Without a frame, where the locale has no such letters, the title is a part as well.
    content = "\n".join(line[2:].rstrip(" │") for line in inside or lines)
    parts = re.split(r"^[─-]{5,}$", content, flags=re.MULTILINE)
    if not inside and len(parts) > 1:
        parts = parts[1:]
    problem = " ".join(parts[0].split()).rstrip(".")
    if len(parts) > 1 and "Perhaps you meant" in parts[1]:
        meant = re.findall(r"^ {4}(--\S+)", parts[1], re.MULTILINE)
        problem += f". Perhaps you meant {', '.join(meant[:_MOST_MEANT])}"
    return f"{problem[0].lower()}{problem[1:]} (--help tells of all flags)"
