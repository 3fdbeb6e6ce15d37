# SPDX-License-Identifier: Apache-2.0
"""Text on a picture: in a font that has its characters, in lines that fit a width."""

import functools
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK = (32, 32, 32)
# Pillow's own font has little more than ASCII. These come with Linux, macOS and Windows, and Pillow
# finds them by name; the first ones cover the most scripts.
SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "arial.ttf",
)
_NO_CHARACTER = "\uffff"  # every font draws its missing glyph for it


@dataclass(frozen=True)
class Lettering:
    """Lines of text in one font, below one another."""

    lines: tuple[str, ...]
    font: Font
    line_height: int

    @property
    def width(self) -> int:
        """Pixels of the longest line, 0 without lines."""
        return int(np.ceil(max((self.font.getlength(line) for line in self.lines), default=0)))

    @property
    def height(self) -> int:
        """Pixels of all lines."""
        return self.line_height * len(self.lines)

    def write(
        self,
        pen: ImageDraw.ImageDraw,
        place: tuple[int, int],
        align: Literal["left", "center", "right"],
    ) -> None:
        """Draws the lines; `place` is the top of their left edge, middle or right edge."""
        for index, line in enumerate(self.lines):
            back = {"left": 0.0, "center": 0.5, "right": 1.0}[align] * self.font.getlength(line)
            position = (place[0] - back, place[1] + index * self.line_height)
            pen.text(position, line, INK, self.font)


def lettering(text: str, size: int, width: float) -> Lettering:
    """The text in lines of at most `width` pixels, broken at spaces where possible.

    In Pillow's own font, or the system font that has the most of its characters. What that font
    lacks is written as a Python escape: `\\u753b`.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    font: Font = ImageFont.load_default(size=size)
    lacking = _lacking(text, font)
    for other in _system_fonts(size) if lacking else ():
        less = _lacking(text, other)
        if len(less) < len(lacking):
            font, lacking = other, less
    for character in lacking:
        text = text.replace(character, character.encode("unicode_escape").decode())
    return Lettering(tuple(_wrap(text, font, width)), font, round(1.3 * size))


@functools.cache
def _system_fonts(size: int) -> tuple[Font, ...]:
    fonts = []
    for name in SYSTEM_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(fonts)


def _lacking(text: str, font: Font) -> set[str]:
    """The characters for which the font has no glyph."""
    missing = bytes(font.getmask(_NO_CHARACTER))
    return {
        character
        for character in set(text) - {" "}
        if not character.isprintable() or bytes(font.getmask(character)) == missing
    }


def _wrap(text: str, font: Font, width: float) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while font.getlength(line) > width and len(line) > 1:
            fits = _fitting(line, font, width)
            lines.append(line[:fits])
            line = line[fits:]
    return lines + [line] * bool(line)


def _fitting(text: str, font: Font, width: float) -> int:
    """How many characters from the start fit the width, at least one."""
    lengths = range(1, len(text) + 1)
    return max(1, bisect_right(lengths, width, key=lambda n: font.getlength(text[:n])))
