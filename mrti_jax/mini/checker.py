# SPDX-License-Identifier: Apache-2.0
"""Reads a picture of the world back into words, from its pixels and the renderer alone.

Nothing here is trained, so it can judge what a trained model draws.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from mrti_jax.mini.outline import find_mask, fit_outline
from mrti_jax.mini.pattern import fit_pattern
from mrti_jax.mini.world.palette import COLOURS, lab, rgb
from mrti_jax.mini.world.render import background
from mrti_jax.mini.world.scene import BACKGROUND_KINDS, Scene

_SIZE = 64
_BORDER = (0, 1, 2, _SIZE - 3, _SIZE - 2, _SIZE - 1)
_SAME = 28.0  # CIELAB distance below which the object's extremes count as one colour
_UNPATTERNED = 0.15  # share of the variance below which no texture explains the two colours
_PATCH = 0.18  # share of the object from which unexplained colour is more than a drawn line


@dataclass(frozen=True)
class Reading:
    """What a picture shows. Shape, texture and colours are None if no object was found; the
    texture is also None if the two colours form none of the world's.

    `colour` is the colour that covers more of the object and `second` the other one (None for a
    plain object). In stripes both cover about the same area, so compare `colours`.
    """

    shape: str | None
    colour: str | None
    second: str | None
    texture: str | None
    background: str
    background_kind: str

    @property
    def colours(self) -> frozenset[str]:
        """The object's one or two colours."""
        return frozenset(c for c in (self.colour, self.second) if c)


def _border_rows(picture: Float[np.ndarray, "64 64 3"]) -> Float[np.ndarray, "64 3"]:
    """Each row's colour at the left and right borders, even if an object reaches one."""
    return ndimage.median_filter(np.median(picture[:, _BORDER], axis=1), size=(3, 1))


@cache
def _backgrounds() -> tuple[
    list[tuple[str, str]], Float[np.ndarray, "k 64 64 3"], Float[np.ndarray, "k 64 3"]
]:
    """(colour, kind), CIELAB pictures and border rows of every background."""
    keys = [(colour, kind) for colour in COLOURS for kind in BACKGROUND_KINDS]
    scenes = [Scene("circle", "plain", "red", None, c, background_kind=k) for c, k in keys]
    pictures = np.stack([lab(background(scene, _SIZE)).astype(np.float32) for scene in scenes])
    return keys, pictures, np.stack([_border_rows(p) for p in pictures])


@cache
def _shades() -> tuple[list[str], Float[np.ndarray, "k 3"]]:
    """Colour names and CIELAB values of shades, from which light and gloss hardly deviate."""
    pairs = list(product(COLOURS, (-1.0, -0.5, 0.0, 0.5, 1.0)))
    return [name for name, _ in pairs], lab(np.stack([rgb(*pair) for pair in pairs]))


def _name(colour: Float[np.ndarray, "3"]) -> str:
    names, values = _shades()
    return names[int(np.linalg.norm(values - colour, axis=-1).argmin())]


def _interior(mask: Bool[np.ndarray, "64 64"]) -> Bool[np.ndarray, "64 64"]:
    """The mask without its rim, which holds blends with the background, or a drawn line."""
    depth = ndimage.distance_transform_edt(mask)
    for rim in (2.8, 2.1, 1.2):
        inner = depth > rim
        if inner.sum() >= 40:
            return inner
    return mask


def _read_surface(
    picture: Float[np.ndarray, "64 64 3"], inner: Bool[np.ndarray, "64 64"], x: float, y: float
) -> tuple[str, str | None, str | None]:
    """The colour of more area, the other one, and the texture, if one of the world's fits them."""
    pixels = picture[inner]
    mean = pixels.mean(0)
    axis = np.linalg.eigh(np.cov(pixels.T))[1][:, -1].astype(np.float32)
    along = (pixels - mean) @ axis
    low, high = np.percentile(along, (8, 92))
    one = _name(np.median(pixels, axis=0)), None, "plain"
    if low == high:
        return one
    first = along <= (low + high) / 2
    # The outer halves: between them lie blends, and some of the outermost are exaggerated.
    outer = along <= np.median(along[first]), along >= np.median(along[~first])
    ends = pixels[outer[0]].mean(0), pixels[outer[1]].mean(0)
    names = _name(ends[0]), _name(ends[1])
    if names[0] == names[1] or np.linalg.norm(ends[1] - ends[0]) < _SAME:
        return one
    share = np.clip(((picture - mean) @ axis - low) / (high - low), 0.0, 1.0)
    texture, explained = fit_pattern(share, inner, x, y)
    high_part = float((share[inner] > 0.5).mean())
    larger = int(high_part > 0.5)
    if explained >= _UNPATTERNED:
        return names[larger], names[1 - larger], texture
    if min(high_part, 1.0 - high_part) >= _PATCH:
        return names[larger], names[1 - larger], None
    return one


def read(image: UInt8[np.ndarray, "64 64 3"]) -> Reading:
    """What `image`, a 64 x 64 sRGB picture, shows."""
    picture = lab(image.astype(np.float32) / 255).astype(np.float32)
    keys, pictures, borders = _backgrounds()
    rows = _border_rows(picture)
    # The cap keeps rows in which the object reaches both borders from deciding.
    gaps = np.minimum(np.linalg.norm(borders - rows, axis=-1), 60.0).mean(1)
    best = int(gaps.argmin())
    behind = pictures[best] + (rows - borders[best])[:, None]
    name, kind = keys[best]
    mask = find_mask(np.linalg.norm(picture - behind, axis=-1))
    if not mask.any():
        return Reading(None, None, None, None, name, kind)
    outline = fit_outline(mask)
    colour, second, texture = _read_surface(picture, _interior(mask), outline.x, outline.y)
    return Reading(outline.shape, colour, second, texture, name, kind)
