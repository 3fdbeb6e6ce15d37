# SPDX-License-Identifier: Apache-2.0
"""A command's flags: its arguments as a dataclass, and errors in them in one line."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from mrti_jax.errors import UserError

Flags = TypeVar("Flags")

_MOST_MEANT = 3  # for each wrong flag
_LONG = 20  # characters, on the narrowest terminal


def named(metavar: str) -> Any:
    """What `--help` calls a positional argument, instead of its type."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def read_flags(flags_type: type[Flags], argv: Sequence[str] | None, **options: Any) -> Flags:
    """The flags in `argv`, the process's own arguments if None; `options` are those of `tyro.cli`.

    Raises UserError for flags that can't be read; `--help` exits by SystemExit.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(flags_type, args=arguments, **options)
    except SystemExit as ended:
        if ended.code != 2:
            sys.stdout.flush()  # a closed pipe is noticed here
            raise
    raise UserError(_without_box(told.getvalue(), arguments))


def _without_box(text: str, arguments: Sequence[str]) -> str:
    """The text of tyro's box in one line: the problem, and the flags that may be meant."""
    lines = text.splitlines()
    inside = [line for line in lines if line.startswith("│")]
    # Without a frame (if the locale lacks its characters), the title is a part too.
    content = "\n".join(line[2:].rstrip(" │") for line in inside or lines)
    parts = re.split(r"^[─-]{5,}$", content, flags=re.MULTILINE)
    if not inside and len(parts) > 1:
        parts = parts[1:]
    problem = " ".join(parts[0].split()).rstrip(".")
    for argument in arguments:
        if len(argument) > _LONG:  # the box may have broken it
            broken = " ?".join(map(re.escape, argument))
            problem = argument.join(re.split(broken, problem))
    # Of a flag that may be left out, tyro tells what each of its types, None included, objects to.
    problem = re.sub(
        r"no type matching \{None\}\|\{?(.+?)\}? could be instantiated from (\[.+?\])\. Got .*",
        r"\2 is not \1",
        problem,
    )
    meant: list[str] = []
    for part in parts[1:]:
        if re.match(r"\s*(Perhaps you meant|Arguments similar to)", part):
            meant += re.findall(r"^ {4}(--[^\s,]+)", part, re.MULTILINE)[:_MOST_MEANT]
    if meant:
        # Sorted, since tyro's order differs from process to process.
        problem += f"; perhaps you meant {', '.join(sorted(set(meant)))}"
    return f"{problem[0].lower()}{problem[1:]} (--help lists all flags)"
