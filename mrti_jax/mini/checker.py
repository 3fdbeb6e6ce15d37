# SPDX-License-Identifier: Apache-2.0
"""Reads a picture of the world back into words, from its pixels and the renderer alone.

Nothing here is trained, so it can judge what a trained model draws.
"""

from dataclasses import dataclass
from functools import cache
from itertools import chain, product

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from mrti_jax.mini.outline import find_mask, fit_outline
from mrti_jax.mini.pattern import fit_pattern, light_basis
from mrti_jax.mini.world.palette import COLOURS, TONES, lab, rgb, toned
from mrti_jax.mini.world.render import background
from mrti_jax.mini.world.scene import BACKGROUND_KINDS, Scene

_SIZE = 64
_BORDER = (0, 1, 2, _SIZE - 3, _SIZE - 2, _SIZE - 1)
_SHADES = (-1.0, -0.5, 0.0, 0.5, 1.0)
_MARKED = 14.0  # CIELAB distance from which the object's extremes are more than brush strokes
_UNPATTERNED = 0.3  # share of the variance below which no texture explains the object's extremes
_PATCH = 0.18  # share of the object from which unexplained colour is more than a drawn line
_STRANGE = 25.0  # CIELAB distance from every colour of the world beyond which none is named


@dataclass(frozen=True)
class Reading:
    """What a picture shows. Shape, texture and colour are None if no object was found; the texture
    is also None if the object's marks form none of the world's, and the colour if it has several.
    """

    shape: str | None
    colour: str | None
    texture: str | None
    background: str
    background_kind: str


def _border_rows(picture: Float[np.ndarray, "64 64 3"]) -> Float[np.ndarray, "64 3"]:
    """Each row's colour at the left and right borders, even if an object reaches one."""
    return ndimage.median_filter(np.median(picture[:, _BORDER], axis=1), size=(3, 1))


@cache
def _backgrounds() -> tuple[
    list[tuple[str, str]], Float[np.ndarray, "k 64 64 3"], Float[np.ndarray, "k 64 3"]
]:
    """(colour, kind), CIELAB pictures and border rows of every background."""
    keys = [(colour, kind) for colour in COLOURS for kind in BACKGROUND_KINDS]
    scenes = [Scene("circle", "plain", "red", c, background_kind=k) for c, k in keys]
    pictures = np.stack([lab(background(scene, _SIZE)).astype(np.float32) for scene in scenes])
    return keys, pictures, np.stack([_border_rows(p) for p in pictures])


@cache
def _surfaces() -> tuple[list[str], Float[np.ndarray, "k 2 3"]]:
    """Colour names and CIELAB values of shades and of marks on them (the same if there are none),
    from which light and gloss hardly deviate."""
    names, values = [], []
    for name, shade in product(COLOURS, _SHADES):
        for tone in (0.0, *chain(*TONES[name])):
            names.append(name)
            values.append([rgb(name, shade), toned(rgb(name, shade), tone)])
    return names, lab(np.array(values))


def _name(ends: Float[np.ndarray, "2 3"]) -> str | None:
    """The colour whose rest and marks, in either order, look like `ends`; None if none's do."""
    names, values = _surfaces()
    gaps = [np.linalg.norm(values - order, axis=-1).mean(-1) for order in (ends, ends[::-1])]
    closest = np.minimum(*gaps)
    best = int(closest.argmin())
    return names[best] if closest[best] < _STRANGE else None


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
) -> tuple[str | None, str | None]:
    """The object's colour, and the texture, if it is one of the world's; `x`, `y`: its centre."""
    rows, columns = np.nonzero(inner)
    at_x, at_y = columns + 0.5 - x, rows + 0.5 - y
    pixels = picture[inner]
    light = light_basis(at_x, at_y)
    marks = pixels - light.T @ (light @ pixels)
    axis = np.linalg.eigh(marks.T @ marks)[1][:, -1].astype(np.float32)
    along = marks @ axis
    first = along <= (along.min() + along.max()) / 2
    # The outer halves: between them lie blends, and some of the outermost are exaggerated.
    outer = along <= np.median(along[first]), along >= np.median(along[~first])
    ends = np.stack([pixels[part].mean(0) for part in outer])
    middle = np.tile(np.median(pixels, axis=0), (2, 1))
    if along[outer[1]].mean() - along[outer[0]].mean() < _MARKED:
        return _name(middle), "plain"
    texture, explained = fit_pattern(along, at_x, at_y)
    if explained >= _UNPATTERNED:
        return _name(ends), texture
    if _PATCH <= first.mean() <= 1.0 - _PATCH:
        return _name(ends), None
    return _name(middle), "plain"


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
        return Reading(None, None, None, name, kind)
    outline = fit_outline(mask)
    colour, texture = _read_surface(picture, _interior(mask), outline.x, outline.y)
    return Reading(outline.shape, colour, texture, name, kind)
