# SPDX-License-Identifier: Apache-2.0
"""Fonts and lines of the text on sheets."""

from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from mrti_jax.sampling import lettering as module
from mrti_jax.sampling.lettering import Lettering, lettering

WIDTH = 1000


def with_accents() -> ImageFont.FreeTypeFont:
    """Pillow's font, which draws an e where the character is é."""
    font: Any = ImageFont.load_default(size=14)
    getmask = font.getmask
    font.getmask = lambda text, *rest, **options: getmask(text.replace("é", "e"), *rest, **options)
    return font


def drawn(text: Lettering) -> bytes:
    sheet = Image.new("RGB", (400, 100), "white")
    text.write(ImageDraw.Draw(sheet), (10, 10), "left")
    return sheet.tobytes()


def test_ascii_is_in_pillows_font_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(map(chr, range(0x21, 0x7F)))
    here = drawn(lettering(text, 14, WIDTH))
    monkeypatch.setattr(module, "_system_fonts", lambda size: (with_accents(),))
    found = lettering(text, 14, WIDTH)
    assert found.lines == (text,) and drawn(found) == here


def test_other_characters_are_never_boxes() -> None:
    texts = ["café", "cafè", "cafж", "caf画", "caf🎨", "caf\uffff", "caf\udc80", "caf\0"]
    assert len({drawn(lettering(text, 14, WIDTH)) for text in texts}) == len(texts)


def test_without_a_font_they_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_system_fonts", lambda size: ())
    text = "café 画 🎨 \0 \udc80 \\n “x”"
    assert lettering(text, 14, WIDTH).lines == (
        "caf\\xe9 \\u753b \\U0001f3a8 \\x00 \\udc80 \\n “x”",
    )


def test_the_font_that_lacks_the_least_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    accents = with_accents()
    plain = ImageFont.load_default(size=14)
    monkeypatch.setattr(module, "_system_fonts", lambda size: (plain, accents, with_accents()))
    for text in ("café 画", "café 画"):  # one character, or an e and an accent
        found = lettering(text, 14, WIDTH)
        assert found.font is accents and found.lines == ("café \\u753b",)


def test_fonts_that_are_not_there_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYSTEM_FONTS", ("no such font.ttf",))
    module._system_fonts.cache_clear()
    assert lettering("é", 13, WIDTH).lines == ("\\xe9",)
    module._system_fonts.cache_clear()


def test_lines_fit_the_width() -> None:
    text = lettering("some words and " + "unbroken" * 30, 14, 120)
    assert len(text.lines) > 3 and text.lines[0] == "some words and" and text.width <= 120
    assert text.height == len(text.lines) * 18
    assert "".join(text.lines).endswith("unbroken" * 30)
    assert "".join(lettering("w" * 5000, 14, 120).lines) == "w" * 5000  # and not in minutes
    nothing = lettering(" \n", 14, 120)
    assert (nothing.lines, nothing.width, nothing.height) == ((), 0, 0)
