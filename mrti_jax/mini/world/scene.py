# SPDX-License-Identifier: Apache-2.0
"""A scene: everything that determines a picture; and how scenes are drawn at random."""

from dataclasses import dataclass

import numpy as np

from mrti_jax.mini.world.combos import HELD_OUT, THINGS, Combo
from mrti_jax.mini.world.palette import COLOURS, CONTRASTING, random_shade, random_tone
from mrti_jax.mini.world.shapes import SHAPES
from mrti_jax.mini.world.textures import TEXTURES

STYLES = ("photo", "painting", "drawing")
BACKGROUND_KINDS = ("plain", "gradient", "tiled")
PLACES = ("middle", "left", "right", "top", "bottom")
DIAMETERS = {"small": 26.0, "medium": 36.0, "large": 46.0}

_PATTERNED = tuple(t for t in TEXTURES if t != "plain")
_HELD_OUT_SORTED = sorted(HELD_OUT, key=str)
_SHARE_THINGS = 0.12
_MOST_ASPECT = 0.25  # natural logarithm of width over height


@dataclass(frozen=True)
class Scene:
    """One object on a background. Lengths are in px of a 64 x 64 picture, angles in radians.

    `aspect` is width over height. `angle`, `period`, `phase` (periods) and `duty` shape the
    texture, whose marks are of a lighter or darker `tone` (1 is white, -1 black) of the object's
    colour. Shades go from -1 (dark) to 1 (light). `thing` is the noun for the whole appearance, if
    it has one. `brush` (radians) places the brush strokes of a painting.
    """

    shape: str
    texture: str
    colour: str
    background: str
    background_kind: str = "plain"
    style: str = "photo"
    size: str = "medium"
    place: str = "middle"
    thing: str | None = None
    diameter: float = 36.0
    x: float = 32.0
    y: float = 32.0
    rotation: float = 0.0
    aspect: float = 1.0
    angle: float = 0.0
    period: float = 10.0
    phase: float = 0.0
    duty: float = 0.5
    colour_shade: float = 0.0
    tone: float = 0.0
    background_shade: float = 0.0
    brush: float = 0.0

    @property
    def combo(self) -> Combo:
        """The appearance as words describe it."""
        return Combo(self.shape, self.texture, self.colour)


def random_combo(rng: np.random.Generator, *, held_out: bool = False) -> Combo:
    """An appearance, either outside HELD_OUT (40 % plain) or, if `held_out`, inside it."""
    if held_out:
        return _HELD_OUT_SORTED[int(rng.integers(len(_HELD_OUT_SORTED)))]
    while True:
        shape = str(rng.choice(tuple(SHAPES)))
        colour = str(rng.choice(COLOURS))
        texture = "plain" if rng.random() < 0.4 else str(rng.choice(_PATTERNED))
        combo = Combo(shape, texture, colour)
        if combo not in HELD_OUT:
            return combo


def random_background(combo: Combo, rng: np.random.Generator) -> str:
    """A background colour that stands out from the object's."""
    return str(rng.choice(CONTRASTING[combo.colour]))


def random_placement(rng: np.random.Generator) -> dict[str, str | float]:
    """Size, place and the exact diameter and centre, as keyword arguments of Scene."""
    place = "middle" if rng.random() < 0.5 else str(rng.choice(PLACES[1:]))
    # A large object off the middle would be cut, or look as if it were in the middle.
    # Small objects are rarer: they show the least of what there is to learn.
    shares = (0.2, 0.4, 0.4) if place == "middle" else (0.35, 0.65, 0.0)
    size = str(rng.choice(tuple(DIAMETERS), p=shares))
    diameter = DIAMETERS[size] * float(rng.uniform(0.96, 1.04))
    reach = 0.54 * diameter + 1.0
    shift = 30.5 - reach
    dx = {"left": -shift, "right": shift}.get(place, 0.0) + float(rng.uniform(-2, 2))
    dy = {"top": -shift, "bottom": shift}.get(place, 0.0) + float(rng.uniform(-2, 2))
    room = 32.0 - reach
    x, y = (32.0 + min(max(d, -room), room) for d in (dx, dy))
    return {"size": size, "place": place, "diameter": diameter, "x": x, "y": y}


def random_details(colour: str, rng: np.random.Generator) -> dict[str, float]:
    """What words don't say about an appearance of `colour`, as keyword arguments of Scene."""
    return {
        "aspect": round(float(np.exp(rng.uniform(-_MOST_ASPECT, _MOST_ASPECT))), 3),
        "angle": round(float(rng.uniform(-0.3, 0.3)), 3),
        "period": round(float(rng.uniform(9.0, 12.0)), 2),
        "phase": round(float(rng.uniform(0.0, 1.0)), 3),
        "duty": round(float(rng.uniform(0.3, 0.7)), 3),
        "colour_shade": random_shade(rng),
        "tone": random_tone(colour, rng),
    }


def random_scene(rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """A scene for base training, or one with a held-out appearance; a pure function of `rng`."""
    thing = None
    if not held_out and rng.random() < _SHARE_THINGS:
        thing = str(rng.choice(tuple(THINGS)))
        kind = THINGS[thing]
        combo = kind.combo
        details = {
            "aspect": kind.aspect * float(rng.uniform(0.98, 1.02)),
            "angle": kind.angle + float(rng.normal(0.0, 0.04)),
            "period": kind.period,
            "phase": 0.0,
            "duty": kind.duty,
            "colour_shade": random_shade(rng, 0.2),
            "tone": kind.tone,
        }
    else:
        combo = random_combo(rng, held_out=held_out)
        details = random_details(combo.colour, rng)
    return Scene(
        *combo,
        background=random_background(combo, rng),
        background_kind=str(rng.choice(BACKGROUND_KINDS, p=(0.6, 0.2, 0.2))),
        style=str(rng.choice(STYLES, p=(0.5, 0.25, 0.25))),
        thing=thing,
        rotation=float(np.deg2rad(rng.uniform(-10.0, 10.0))),
        background_shade=random_shade(rng, 0.2),
        brush=float(rng.uniform(0.0, 2 * np.pi)),
        **details,  # type: ignore[arg-type, misc]
        **random_placement(rng),  # type: ignore[arg-type]
    )
