# SPDX-License-Identifier: Apache-2.0
"""The ten named colours of the world, their shades and tones, and which pairs contrast well."""

from functools import cache

import numpy as np
from jaxtyping import Float

PALETTE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((178, 24, 38), (212, 38, 44), (242, 80, 66)),
    "orange": ((228, 112, 10), (246, 138, 28), (250, 152, 52)),
    "yellow": ((240, 206, 40), (250, 218, 66), (253, 240, 150)),
    "green": ((26, 116, 56), (52, 158, 74), (124, 204, 110)),
    "blue": ((20, 60, 140), (44, 98, 208), (100, 164, 240)),
    "purple": ((104, 36, 136), (134, 58, 172), (178, 116, 212)),
    "pink": ((240, 118, 172), (246, 154, 192), (250, 176, 206)),
    "brown": ((88, 48, 26), (122, 74, 40), (148, 98, 60)),
    "black": ((14, 14, 16), (30, 30, 34), (48, 48, 54)),
    "white": ((228, 228, 224), (244, 244, 240), (255, 255, 255)),
}
"""Each colour's darkest, middle and lightest shade."""

COLOURS = tuple(PALETTE)

_LIGHT_MARKS, _DARK_MARKS = (0.4, 0.55), (-0.5, -0.35)

TONES: dict[str, tuple[tuple[float, float], ...]] = {
    **dict.fromkeys(COLOURS, (_LIGHT_MARKS, _DARK_MARKS)),
    **dict.fromkeys(("yellow", "pink", "white"), (_DARK_MARKS,)),
    **dict.fromkeys(("black", "brown"), (_LIGHT_MARKS,)),
}
"""The spans of tones in which marks show on each colour; about 20 to 55 in CIE76, which is clearly
seen, yet far weaker than an outline."""

_MIN_CONTRAST = 52.0  # CIE76; below it two colours blur into each other at 64 px


@cache
def rgb(name: str, shade: float = 0.0) -> Float[np.ndarray, "3"]:
    """Colour `name` from its darkest (-1) to its lightest (1) shade, float32 in [0, 1]. Raises
    KeyError for an unknown name."""
    levels = np.array(PALETTE[name], np.float32) / 255
    return np.stack([np.interp(shade, (-1, 0, 1), level) for level in levels.T]).astype(np.float32)


def random_shade(rng: np.random.Generator, most: float = 1.0) -> float:
    """A shade within `most` of the middle; no word describes it."""
    return round(float(rng.uniform(-most, most)), 3)


def toned(colour: Float[np.ndarray, "3"], tone: float) -> Float[np.ndarray, "3"]:
    """`colour`, sRGB in [0, 1], mixed with white (`tone` > 0) or black (`tone` < 0); at 1 and -1
    it is all white and all black."""
    return colour + abs(tone) * (np.float32(tone > 0) - colour)


def random_tone(colour: str, rng: np.random.Generator) -> float:
    """A tone of TONES for marks on `colour`; no word describes it."""
    spans = TONES[colour]
    return round(float(rng.uniform(*spans[int(rng.integers(len(spans)))])), 3)


def lab(colours: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """sRGB in [0, 1] to CIELAB (D65), where distances match what the eye perceives."""
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
