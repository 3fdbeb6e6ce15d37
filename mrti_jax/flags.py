# SPDX-License-Identifier: Apache-2.0
"""A command's flags: its arguments as a dataclass, and errors in them in one line."""

import contextlib
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_type_hints

import docstring_parser
import tyro

from mrti_jax.errors import UserError

Flags = TypeVar("Flags")

_MOST_MEANT = 3  # for each wrong flag
_LONG = 20  # characters, on the narrowest terminal


# What tyro objects to: the value in a group.
_NOT_A_NUMBER = {
    r"invalid literal for int\(\) with base 10: ('.*')": "a whole number",
    r"could not convert string to float: ('.*')": "a number",
    r"\[('.*')\] is not INT": "a whole number",
    r"\[('.*')\] is not FLOAT": "a number",
    r"\[('.*')\] is not INT INT": "two whole numbers",
    r"\[('.*')\] is not FLOAT FLOAT": "two numbers",
    r"Could not parse arguments \[('.*')\] into tuple type .*\[int, int\]": "two whole numbers",
    r"Could not parse arguments \[('.*')\] into tuple type .*\[float, float\]": "two numbers",
}


def named(metavar: str) -> Any:
    """What `--help` calls a positional argument, instead of its type."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def read_flags(
    flags_type: type[Flags], argv: Sequence[str] | None, *, description: str = "", **options: Any
) -> Flags:
    """The flags in `argv`, the process's own arguments if None; `description` and other `options`
    are those of `tyro.cli`.

    Raises UserError for flags that can't be read; `--help` exits by SystemExit.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), _whole_paragraphs():
            return tyro.cli(
                flags_type,
                args=arguments,
                description=_wrapped(description),
                config=(tyro.conf.DisallowNone,),  # a flag that may be left out is just left out
                **options,
            )
    except SystemExit as ended:
        if ended.code != 2:
            sys.stdout.flush()  # a closed pipe is noticed here
            raise
    problem = _without_box(told.getvalue(), arguments)
    hint = _repeat_hint(flags_type, problem, arguments)
    raise UserError(f"{problem}{hint} (--help lists all flags)")


@contextlib.contextmanager
def _whole_paragraphs() -> Iterator[None]:
    """Gives tyro each docstring as one line: it would keep the source's line breaks, since it takes
    an indented line for one that begins a paragraph."""
    read = docstring_parser.parse_from_object

    def joined(
        obj: Any, style: docstring_parser.DocstringStyle = docstring_parser.DocstringStyle.AUTO
    ) -> docstring_parser.Docstring:
        parsed = read(obj, style)
        for param in parsed.params:
            param.description = " ".join((param.description or "").split())
        return parsed

    docstring_parser.parse_from_object = joined
    try:
        yield
    finally:
        docstring_parser.parse_from_object = read


def _wrapped(description: str) -> str:
    """The text in lines that fit the terminal, without empty ones; those that are indented stay as
    they are. Each begins with a space: tyro would join those that begin with a letter."""
    width = min(shutil.get_terminal_size().columns, 100) - 2
    paragraphs = re.sub(r"(?<=\S)\n(?=\S)", " ", description).split("\n")
    return "\n".join(
        f" {line}"
        for text in paragraphs
        for line in ([text] if text.startswith(" ") else textwrap.wrap(text, width))
    )


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
    # Of a flag that may be left out, tyro tells what its type objects to as well.
    problem = re.sub(
        r"no type matching \{?(.+?)\}? could be instantiated from (\[.+?\])\. Got .*",
        r"\2 is not \1",
        problem,
    )
    problem = re.sub(r"\. Expected one of \((.+?)\)", _choices, problem)
    problem = re.sub(
        r"^Missing from .*?: (\S+) (.+?) ?\(required\)$",
        lambda told: f"There is no {told[1]}: {told[2][0].lower()}{told[2][1:].rstrip('.')}",
        problem,
    )
    for objection, wanted in _NOT_A_NUMBER.items():
        problem = re.sub(
            rf"^Error parsing (\S+?): {objection}$", rf"\1 is \2, not {wanted}", problem
        )
    meant: list[str] = []
    for part in parts[1:]:
        if re.match(r"\s*(Perhaps you meant|Arguments similar to)", part):
            meant += re.findall(r"^ {4}(--[^\s,]+)", part, re.MULTILINE)[:_MOST_MEANT]
    if meant:
        # Sorted, since tyro's order differs from process to process.
        problem += f"; perhaps you meant {', '.join(sorted(set(meant)))}"
    return f"{problem[0].lower()}{problem[1:]}"


def _choices(match: re.Match[str]) -> str:
    """tyro's list of choices, whose order differs from process to process."""
    known = set(re.findall(r"'(.+?)'", match[1])) - {"None"}
    return f": choose from {', '.join(sorted(known))}"


def _repeat_hint(flags_type: type, problem: str, arguments: Sequence[str]) -> str:
    """What to do if the first unrecognized option is a second value of a flag to be repeated."""
    told = re.match(r"unrecognized options: (\S+?)(,|;|$)", problem)
    if told is None or told[1].startswith("-") or told[1] not in arguments:
        return ""
    at = arguments.index(told[1])
    flag = next((one for one in reversed(arguments[:at]) if one.startswith("--")), "")
    hints = get_type_hints(flags_type, include_extras=True)
    options = getattr(hints.get(flag[2:].replace("-", "_")), "__metadata__", ())
    if tyro.conf.UseAppendAction not in options:
        return ""
    example = f"{flag} {arguments[at - 1]} {flag} {arguments[at]}"
    return f"; for several values repeat the flag, as in {example}"
