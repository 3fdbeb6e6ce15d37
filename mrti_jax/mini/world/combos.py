# SPDX-License-Identifier: Apache-2.0
"""Appearances (shape, texture, colour, second colour): those with a noun, those held out.

The nouns ("things") teach that one word can carry shape, colours and texture together, which
is what Textual Inversion relies on; the held-out appearances are what concepts are made of.
"""

import zlib
from typing import NamedTuple

from mrti_jax.mini.world.palette import COLOURS, CONTRASTING
from mrti_jax.mini.world.shapes import SHAPES
from mrti_jax.mini.world.textures import TEXTURES


class Combo(NamedTuple):
    """An appearance as words describe it; `second` is None for the plain texture."""

    shape: str
    texture: str
    colour: str
    second: str | None = None


class Thing(NamedTuple):
    """A noun's appearance, with the details that the noun fixes and no other word names."""

    combo: Combo
    aspect: float = 1.0
    angle: float = 0.0
    period: float = 10.5
    duty: float = 0.5


THINGS: dict[str, Thing] = {
    "lemon": Thing(Combo("circle", "plain", "yellow"), aspect=1.18),
    "tomato": Thing(Combo("circle", "plain", "red"), aspect=1.08),
    "plum": Thing(Combo("circle", "plain", "purple"), aspect=0.87),
    "humbug": Thing(Combo("circle", "striped", "black", "white"), aspect=1.15, angle=0.3),
    "ladybird": Thing(Combo("circle", "dotted", "red", "black"), aspect=0.9, period=11.5),
    "target": Thing(Combo("circle", "ringed", "red", "white"), period=10.5),
    "cookie": Thing(Combo("circle", "dotted", "brown", "white"), angle=0.2, period=9.5),
    "daisy": Thing(Combo("flower", "plain", "white")),
    "rose": Thing(Combo("flower", "plain", "red")),
    "pansy": Thing(Combo("flower", "ringed", "purple", "yellow"), period=11.5),
    "chessboard": Thing(Combo("square", "checked", "black", "white"), period=9.5),
    "parcel": Thing(
        Combo("square", "striped", "brown", "white"), aspect=1.15, period=11.5, duty=0.3
    ),
    "kite": Thing(Combo("diamond", "striped", "red", "yellow"), aspect=0.88, angle=-0.3),
    "emerald": Thing(Combo("diamond", "plain", "green"), aspect=1.12),
    "ruby": Thing(Combo("diamond", "plain", "red"), aspect=1.12),
    "donut": Thing(Combo("ring", "dotted", "brown", "pink"), angle=0.25, period=9.0),
    "tyre": Thing(Combo("ring", "plain", "black")),
    "pizza": Thing(Combo("triangle", "dotted", "yellow", "red"), aspect=0.9, period=10.0),
    "tent": Thing(Combo("triangle", "striped", "green", "white"), aspect=1.15, period=11.5),
    "fir": Thing(Combo("triangle", "plain", "green"), aspect=0.86),
    "banana": Thing(Combo("moon", "plain", "yellow"), aspect=0.9),
    "starfish": Thing(Combo("star", "dotted", "orange", "black"), period=9.3),
}

RESERVED = {
    "jane": Combo("star", "striped", "blue", "yellow"),
    "nell": Combo("heart", "checked", "red", "white"),
    "otto": Combo("flower", "dotted", "purple", "white"),
    "luna": Combo("moon", "striped", "blue", "white"),
    "gus": Combo("ring", "zigzag", "green", "white"),
    "cora": Combo("cross", "ringed", "orange", "blue"),
    "dax": Combo("diamond", "checked", "black", "yellow"),
    "quinn": Combo("square", "ringed", "pink", "blue"),
    "tess": Combo("triangle", "zigzag", "white", "red"),
    "zoe": Combo("circle", "zigzag", "yellow", "green"),
    "hugo": Combo("heart", "striped", "black", "pink"),
    "stella": Combo("star", "dotted", "red", "white"),
    "olaf": Combo("circle", "checked", "orange", "blue"),
    "flora": Combo("flower", "striped", "pink", "purple"),
}
"""Appearances of the ready-made concepts, held out whatever the rule below says."""


def _all_combos() -> list[Combo]:
    plain = [Combo(s, "plain", c) for s in SHAPES for c in COLOURS]
    patterned = [t for t in TEXTURES if t != "plain"]
    return plain + [
        Combo(s, t, c, d)
        for s in SHAPES
        for t in patterned
        for c in COLOURS
        for d in CONTRASTING[c]
    ]


def _held_out() -> frozenset[Combo]:
    # A checksum of the words, so that the set is the same everywhere and in every run.
    chosen = {c for c in _all_combos() if zlib.crc32(" ".join(map(str, c)).encode()) % 100 < 8}
    return frozenset((chosen | set(RESERVED.values())) - {thing.combo for thing in THINGS.values()})


HELD_OUT: frozenset[Combo] = _held_out()
"""About 8 % of all appearances: never drawn for base training."""
