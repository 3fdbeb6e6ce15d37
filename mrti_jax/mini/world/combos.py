# SPDX-License-Identifier: Apache-2.0
"""Appearances (shape, texture, colour): those with a noun, those held out.

The nouns ("things") teach that one word can carry shape, colours and texture together, which
is what Textual Inversion relies on; the held-out appearances are what concepts are made of.
"""

import zlib
from itertools import product
from typing import NamedTuple

from mrti_jax.mini.world.palette import COLOURS
from mrti_jax.mini.world.shapes import SHAPES
from mrti_jax.mini.world.textures import TEXTURES


class Combo(NamedTuple):
    """An appearance as words describe it."""

    shape: str
    texture: str
    colour: str


class Thing(NamedTuple):
    """A noun's appearance, with the details that the noun fixes and no other word names."""

    combo: Combo
    aspect: float = 1.0
    angle: float = 0.0
    period: float = 10.5
    duty: float = 0.5
    tone: float = 0.0


THINGS: dict[str, Thing] = {
    "lemon": Thing(Combo("circle", "plain", "yellow"), aspect=1.18),
    "tomato": Thing(Combo("circle", "plain", "red"), aspect=1.08),
    "plum": Thing(Combo("circle", "plain", "purple"), aspect=0.87),
    "humbug": Thing(Combo("circle", "striped", "black"), aspect=1.15, angle=0.3, tone=0.5),
    "ladybird": Thing(Combo("circle", "dotted", "red"), aspect=0.9, period=11.5, tone=-0.45),
    "target": Thing(Combo("circle", "ringed", "red"), period=10.5, tone=0.5),
    "cookie": Thing(Combo("circle", "dotted", "brown"), angle=0.2, period=9.5, tone=0.4),
    "daisy": Thing(Combo("flower", "plain", "white")),
    "rose": Thing(Combo("flower", "plain", "red")),
    "pansy": Thing(Combo("flower", "ringed", "purple"), period=11.5, tone=0.45),
    "chessboard": Thing(Combo("square", "checked", "black"), period=9.5, tone=0.5),
    "parcel": Thing(
        Combo("square", "striped", "brown"), aspect=1.15, period=11.5, duty=0.3, tone=0.4
    ),
    "kite": Thing(Combo("diamond", "striped", "red"), aspect=0.88, angle=-0.3, tone=-0.4),
    "emerald": Thing(Combo("diamond", "plain", "green"), aspect=1.12),
    "ruby": Thing(Combo("diamond", "plain", "red"), aspect=1.12),
    "donut": Thing(Combo("ring", "dotted", "brown"), angle=0.25, period=9.0, tone=0.5),
    "tyre": Thing(Combo("ring", "plain", "black")),
    "pizza": Thing(Combo("triangle", "dotted", "yellow"), aspect=0.9, period=10.0, tone=-0.4),
    "tent": Thing(Combo("triangle", "striped", "green"), aspect=1.15, period=11.5, tone=0.4),
    "fir": Thing(Combo("triangle", "plain", "green"), aspect=0.86),
    "banana": Thing(Combo("moon", "plain", "yellow"), aspect=0.9),
    "starfish": Thing(Combo("star", "dotted", "orange"), period=9.3, tone=-0.4),
}

RESERVED = {
    "jane": Combo("star", "striped", "blue"),
    "nell": Combo("heart", "checked", "red"),
    "otto": Combo("flower", "dotted", "purple"),
    "luna": Combo("moon", "striped", "yellow"),
    "gus": Combo("ring", "zigzag", "green"),
    "cora": Combo("cross", "ringed", "orange"),
    "dax": Combo("diamond", "checked", "black"),
    "quinn": Combo("square", "ringed", "pink"),
    "tess": Combo("triangle", "zigzag", "red"),
    "zoe": Combo("circle", "zigzag", "white"),
    "hugo": Combo("heart", "striped", "brown"),
    "stella": Combo("star", "dotted", "yellow"),
    "olaf": Combo("circle", "checked", "blue"),
    "flora": Combo("flower", "striped", "pink"),
}
"""Appearances of the ready-made concepts, held out whatever the rule below says."""


def _held_out() -> frozenset[Combo]:
    # A checksum of the words, so that the set is the same everywhere and in every run.
    every = {Combo(*words) for words in product(SHAPES, TEXTURES, COLOURS)}
    chosen = {combo for combo in every if zlib.crc32(" ".join(combo).encode()) % 100 < 6}
    return frozenset((chosen | set(RESERVED.values())) - {thing.combo for thing in THINGS.values()})


HELD_OUT: frozenset[Combo] = _held_out()
"""About 7 % of all appearances: never drawn for base training."""
