# SPDX-License-Identifier: Apache-2.0
"""Draws a scene at any resolution from signed distances, with anti-aliased edges."""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

from mrti_jax.mini.world.palette import rgb, toned
from mrti_jax.mini.world.scene import Scene
from mrti_jax.mini.world.shapes import SHAPES
from mrti_jax.mini.world.textures import TEXTURES

Plane = Float[np.ndarray, "h w"]

_EXTENT = 64.0  # side of the scene, in its own px
_INK = np.array([0.10, 0.09, 0.11], np.float32)


@cache
def _grid(size: int) -> tuple[Plane, Plane]:
    centres = (np.arange(size, dtype=np.float32) + 0.5) * (_EXTENT / size)
    x, y = np.meshgrid(centres, centres)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def _window(scene: Scene, size: int) -> tuple[slice, slice]:
    """Rows and columns that hold the object and a rim of 3 px."""
    reach = 0.62 * scene.diameter + 3.0
    scale = size / _EXTENT

    def span(centre: float) -> slice:
        low, high = (centre - reach) * scale, (centre + reach) * scale
        return slice(max(int(low), 0), min(int(high) + 1, size))

    return span(scene.y), span(scene.x)


def _distance(scene: Scene, x: Plane, y: Plane) -> Plane:
    """Signed distance to the outline in scene px, negative inside."""
    dx, dy = x - scene.x, y - scene.y
    if scene.style == "painting":  # wobbly edges
        wobble = 2 * np.pi / 13.0
        reach = min(0.013 * scene.diameter, 0.45)
        dx, dy = (
            dx + reach * np.sin(dy * wobble + scene.brush),
            dy + reach * np.sin(dx * wobble + 2 * scene.brush),
        )
    radius = scene.diameter / 2
    stretch = scene.aspect**0.5
    cos, sin = np.cos(scene.rotation), np.sin(scene.rotation)
    u = (cos * dx + sin * dy) / np.float32(radius * stretch)
    v = (cos * dy - sin * dx) / np.float32(radius / stretch)
    return SHAPES[scene.shape](u, v) * np.float32(radius)


def _coverage(distance: Plane, pixel: float) -> Plane:
    """Share of a pixel that lies where `distance` is negative."""
    return np.clip(0.5 - distance / np.float32(pixel), 0.0, 1.0)


def background(scene: Scene, size: int) -> Float[np.ndarray, "size size 3"]:
    """What lies behind the object, float32 in [0, 1], before any brush strokes."""
    colour = rgb(scene.background, scene.background_shade)
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = colour
    x, y = _grid(size)
    if scene.background_kind == "gradient":  # from a little darker to clearly lighter
        down = (y[:, :1] / np.float32(_EXTENT))[..., None]
        picture *= 0.86 + 0.14 * down
        picture += 0.26 * down * (1.0 - picture)
    elif scene.background_kind == "tiled":
        tile, width = 10.667, 1.5
        gap = np.minimum(
            np.abs(x - tile * np.round(x / tile)), np.abs(y - tile * np.round(y / tile))
        )
        line = _coverage(gap - width / 2, _EXTENT / size)[..., None]
        joint = colour * 0.78 if colour.mean() > 0.3 else colour + (1.0 - colour) * 0.24
        picture += line * (joint - picture)
    return picture


def _surface(scene: Scene, x: Plane, y: Plane, pixel: float) -> Float[np.ndarray, "h w 3"]:
    """The object's colours before the drawing style."""
    base = rgb(scene.colour, scene.colour_shade)
    texture = TEXTURES[scene.texture]
    if texture is None:
        return np.broadcast_to(base, (*x.shape, 3))
    dx, dy = x - scene.x, y - scene.y
    cos, sin = np.cos(scene.angle), np.sin(scene.angle)
    depth = texture(cos * dx + sin * dy, cos * dy - sin * dx, scene.period, scene.phase, scene.duty)
    share = _coverage(-depth, pixel)[..., None]
    return base + share * (toned(base, scene.tone) - base)


def _lit(
    surface: Float[np.ndarray, "h w 3"], scene: Scene, x: Plane, y: Plane
) -> Float[np.ndarray, "h w 3"]:
    """Soft light from the top left with a gentle gloss, as on a rounded body."""
    radius = scene.diameter / 2
    u, v = (x - scene.x) / radius, (y - scene.y) / radius
    shade = np.clip(1.0 - 0.15 * (u + v), 0.78, 1.14)
    gloss = 0.20 * np.exp(-5.0 * ((u + 0.38) ** 2 + (v + 0.42) ** 2))
    lit = np.minimum(surface * shade[..., None], 1.0)
    return lit + gloss[..., None] * (1.0 - lit)


def _strokes(scene: Scene, size: int) -> Plane:
    """Brightness factor of low-contrast slanting brush strokes."""
    x, y = _grid(size)
    along, across = 0.8 * x + 0.6 * y, 0.8 * y - 0.6 * x
    bend = 1.6 * np.sin(along * 0.16 + scene.brush)
    return 1.0 + 0.055 * np.sin(across * 1.15 + bend) * np.sin(along * 0.23 + 2 * scene.brush)


def object_mask(scene: Scene, size: int = 64) -> Float[np.ndarray, "size size"]:
    """Share of each pixel that the object covers, float32 in [0, 1]."""
    mask = np.zeros((size, size), np.float32)
    rows, columns = _window(scene, size)
    x, y = _grid(size)
    distance = _distance(scene, x[rows, columns], y[rows, columns])
    mask[rows, columns] = _coverage(distance, _EXTENT / size)
    return mask


def render(scene: Scene, size: int = 64) -> UInt8[np.ndarray, "size size 3"]:
    """The picture of `scene`; the same scene at every resolution."""
    pixel = _EXTENT / size
    picture = background(scene, size)
    rows, columns = _window(scene, size)
    x, y = (plane[rows, columns] for plane in _grid(size))
    distance = _distance(scene, x, y)
    surface = _surface(scene, x, y, pixel)
    if scene.style == "photo":
        surface = _lit(surface, scene, x, y)
    below = picture[rows, columns]
    below += _coverage(distance, pixel)[..., None] * (surface - below)
    if scene.style == "drawing":
        line = _coverage(np.abs(distance) - 0.75, pixel)[..., None]
        below += line * (_INK - below)
    if scene.style == "painting":
        picture *= _strokes(scene, size)[..., None]
    return (np.clip(picture, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
