# SPDX-License-Identifier: Apache-2.0
"""The prompt grammar: `<jane>`, `<jane[3]>`, `<jane(0.3)>`, `<jane|7|>` in ordinary text.

A word starts with `<`, a letter and a name that is followed by `>`, `[`, `(` or `|`; everything
else is text and stays as it is. After a backslash, what starts like a word is text too: `\\<jane>`
is the text `<jane>`, `\\\\<jane>` a backslash and the word. Backslashes elsewhere are text.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NoReturn

from mrti_jax.errors import UserError

Scheme = Literal["bare", "fully", "semi", "fixed"]

# The brackets around a word's number, by scheme; a bare word has no number.
BRACKETS: dict[Scheme, tuple[str, str]] = {
    "fully": ("[", "]"),
    "semi": ("(", ")"),
    "fixed": ("|", "|"),
}
MAX_NAME = 64
NAME = r"[A-Za-z][A-Za-z0-9_-]*+"
# The look-behind keeps the search linear in a long run of backslashes.
_WORD_START = re.compile(
    rf"(?<!\\)(?P<escape>\\*+)(?P<start><(?P<name>{NAME})(?P<bracket>[>\[(|]))"
)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_SCHEMES = {left: scheme for scheme, (left, _) in BRACKETS.items()}
MARK = "{k}"  # stands for each value in turn in a sweep's prompt
_ARGUMENT = "a bucket (0, 1, 2, ...) or a resolution (0.0 to 1.0)"
_MAX_DIGITS = 400  # enough for every float, and below the limit of Python's int()


def check_name(name: str) -> None:
    """Raises UserError unless `name` can be written in a prompt and as a file name."""
    if len(name) > MAX_NAME or not re.fullmatch(NAME, name):
        raise UserError(
            f"{name[:80]!r} can't name a concept: use a letter (a-z, A-Z), then letters, digits, "
            f"'_' or '-', at most {MAX_NAME} in all"
        )


@dataclass(frozen=True)
class Word:
    """One concept word. `argument`: int = bucket, float = resolution in [0, 1], None if bare."""

    name: str
    scheme: Scheme = "bare"
    argument: int | float | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.scheme == "bare":
            if self.argument is not None:
                raise UserError(f"a bare word <{self.name}> takes no bucket or resolution")
        elif self.scheme not in BRACKETS:
            known = ", ".join(["bare", *BRACKETS])
            raise UserError(f"unknown scheme {self.scheme!r} of <{self.name}>: choose from {known}")
        elif isinstance(self.argument, bool) or not isinstance(self.argument, int | float):
            raise UserError(f"<{self.name}> needs {_ARGUMENT}, not {self.argument!r}")
        elif isinstance(self.argument, float) and not 0 <= self.argument <= 1:
            raise UserError(f"a resolution must lie between 0.0 and 1.0, not {self.argument}")
        elif self.argument < 0:
            raise UserError(f"a bucket must be 0 or more, not {self.argument}")

    def __str__(self) -> str:
        if self.scheme == "bare":
            return f"<{self.name}>"
        left, right = BRACKETS[self.scheme]
        argument = str(self.argument)
        if isinstance(self.argument, float):  # 1e-05 is written 0.00001, -0.0 is 0.0
            argument = format(abs(Decimal(repr(self.argument))), "f")
        return f"<{self.name}{left}{argument}{right}>"


@dataclass(frozen=True)
class Prompt:
    """A prompt in parts, in order: text as it was written, and concept words."""

    parts: tuple[str | Word, ...]

    @property
    def words(self) -> tuple[Word, ...]:
        """The concept words, in order."""
        return tuple(part for part in self.parts if isinstance(part, Word))

    def __str__(self) -> str:
        """The text that parses to this prompt."""
        written = [str(p) if isinstance(p, Word) else _escaped(p) for p in self.parts]
        for i, part in enumerate(self.parts[:-1]):
            if isinstance(part, str):  # before a word, a backslash would escape it
                written[i] += part[len(part.rstrip("\\")) :]
        return "".join(written)


def parse(text: str) -> Prompt:
    """Splits a prompt at its concept words, in linear time.

    `str(parse(text)) == text`, except for numbers spelled unusually (`[08]`, `[.50]`).
    Raises UserError for a malformed word, with its column and an excerpt marked with `^`.
    """
    parts: list[str | Word] = []
    literal = ""
    end = 0
    while match := _WORD_START.search(text, end):
        escape = match["escape"]
        literal += text[end : match.start()] + escape[: len(escape) // 2]
        if len(escape) % 2:
            literal += match["start"]
            end = match.end()
            continue
        if literal:
            parts.append(literal)
            literal = ""
        word, end = _word(text, match)
        parts.append(word)
    if literal := literal + text[end:]:
        parts.append(literal)
    return Prompt(tuple(parts))


def _escaped(text: str) -> str:
    """The text as it must be written: with a backslash before whatever starts like a word."""
    return _WORD_START.sub(lambda match: f"{2 * match['escape']}\\{match['start']}", text)


def _word(text: str, match: re.Match[str]) -> tuple[Word, int]:
    """The word that begins at the match, and where the text continues."""
    name, bracket, start = match["name"], match["bracket"], match["start"]
    if len(name) > MAX_NAME:
        malformed(text, match.start("name"), f"a name has at most {MAX_NAME} characters")
    if bracket == ">":
        return Word(name), match.end()
    scheme = _SCHEMES[bracket]
    closing = f"{BRACKETS[scheme][1]}>"
    number = _NUMBER.match(text, match.end())
    if text.startswith(MARK, match.end()):
        malformed(
            text,
            match.end(),
            f"{MARK} is filled in only by --grid (in Python: mrti_jax.sweep); otherwise, "
            f"{_ARGUMENT} is expected after '{start}'",
        )
    if number is None:
        malformed(text, match.end(), f"expected {_ARGUMENT} after '{start}'")
    written = number.group()
    if len(written) > _MAX_DIGITS:
        malformed(text, match.end(), f"a number of {len(written)} characters is too long")
    argument = float(written) if "." in written else int(written)
    if isinstance(argument, float) and argument > 1:
        malformed(
            text,
            match.end(),
            f"the resolution {written} is above 1.0 (a bucket is written without a decimal point)",
        )
    if not text.startswith(closing, number.end()):
        malformed(text, number.end(), f"expected '{closing}' after '{start}{written}'")
    return Word(name, scheme, argument), number.end() + len(closing)


def malformed(text: str, at: int, problem: str, hint: str = "") -> NoReturn:
    """Raises UserError with the problem and the column of position `at`, then the hint."""
    place = f"at column {at + 1} of {excerpt(text, at)}"
    raise UserError(f"malformed concept word: {problem}, {place}{hint}")


def excerpt(text: str, at: int) -> str:
    """The text around position `at` on one line and in quotes, with `^` inserted before `at`."""
    left, right = max(0, at - 30), at + 20
    marked = " ".join(f"{text[left:at]}^{text[at:right]}".split())
    return f'"{"..." if left else ""}{marked}{"..." if right < len(text) else ""}"'
