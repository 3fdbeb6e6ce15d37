# SPDX-License-Identifier: Apache-2.0
"""The ten named colours of the world, small shifts of them, and which pairs contrast well."""

import colorsys
from functools import cache

import numpy as np
from jaxtyping import Float

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (212, 38, 44),
    "orange": (246, 138, 28),
    "yellow": (250, 218, 66),
    "green": (52, 158, 74),
    "blue": (44, 98, 208),
    "purple": (134, 58, 172),
    "pink": (246, 154, 192),
    "brown": (122, 74, 40),
    "black": (30, 30, 34),
    "white": (244, 244, 240),
}
COLOURS = tuple(PALETTE)

Shift = tuple[float, float, float]
"""Hue (turns), saturation and value offsets, each added to the palette colour's own."""

_MIN_CONTRAST = 52.0  # CIE76; below it two colours blur into each other at 64 px


@cache
def rgb(name: str, shift: Shift = (0.0, 0.0, 0.0)) -> Float[np.ndarray, "3"]:
    """Colour `name` shifted in HSV, float32 in [0, 1]. KeyError for an unknown name."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in PALETTE[name]))
    colour = colorsys.hsv_to_rgb(
        (hue + shift[0]) % 1.0,
        min(max(saturation + shift[1], 0.0), 1.0),
        min(max(value + shift[2], 0.0), 1.0),
    )
    return np.asarray(colour, np.float32)


def random_shift(rng: np.random.Generator) -> Shift:
    """A small unnamed shift that stays well inside the colour's own region."""
    hue, saturation, value = rng.uniform(-1.0, 1.0, 3) * (0.012, 0.03, 0.035)
    return (round(float(hue), 4), round(float(saturation), 4), round(float(value), 4))


def lab(colours: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """sRGB in [0, 1] to CIELAB (D65), where distances match what the eye sees."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    t = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _contrasting() -> dict[str, tuple[str, ...]]:
    points = lab(np.stack([rgb(name) for name in COLOURS]))
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return {
        a: tuple(b for j, b in enumerate(COLOURS) if gaps[i, j] >= _MIN_CONTRAST)
        for i, a in enumerate(COLOURS)
    }


CONTRASTING = _contrasting()
"""For each colour, the colours that stand out against it."""
