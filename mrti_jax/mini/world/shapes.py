# SPDX-License-Identifier: Apache-2.0
"""The ten shapes as signed distances in a unit frame (x right, y down, negative inside)."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Plane = Float[np.ndarray, "h w"]


def _circle(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - 0.95


def _square(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - 0.82


def _triangle(x: Plane, y: Plane) -> Plane:
    side = np.abs(x) * 0.8660254 - (y - 0.72) * 0.5 - 0.83
    return np.maximum(y - 0.72, side)


def _fold(x: Plane, y: Plane, n: int) -> tuple[Plane, Plane]:
    """Folds the plane into half a sector of an n-fold figure with a tip straight up."""
    radius = np.hypot(x, y)
    sector = 2 * np.pi / n
    angle = np.arctan2(x, -y)
    angle = np.abs(angle - sector * np.round(angle / sector))
    return radius * np.cos(angle), radius * np.sin(angle)


def _star(x: Plane, y: Plane) -> Plane:
    along, across = _fold(x, y, 5)
    tip, notch = 1.06, 0.47
    ex, ey = notch * np.cos(np.pi / 5) - tip, notch * np.sin(np.pi / 5)
    return ((along - tip) * ey - across * ex) / np.hypot(ex, ey)


def _heart(x: Plane, y: Plane) -> Plane:
    s = 0.83  # a square on its corner, with a half disc on each upper side
    x, y = np.abs(x), y - 0.06
    return np.minimum((x + np.abs(y) - s) * 0.70710678, np.hypot(x - s / 2, y + s / 2) - s * 0.7071)


def _cross(x: Plane, y: Plane) -> Plane:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.95, y - 0.32), np.maximum(x - 0.32, y - 0.95))


def _diamond(x: Plane, y: Plane) -> Plane:
    return (np.abs(x) * 1.05 + np.abs(y) * 0.68 - 0.714) / np.hypot(1.05, 0.68)


def _moon(x: Plane, y: Plane) -> Plane:
    x = x - 0.1
    return np.maximum(np.hypot(x, y) - 0.98, 0.78 - np.hypot(x - 0.5, y + 0.12))


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - 0.69) - 0.27


def _flower(x: Plane, y: Plane) -> Plane:
    along, across = _fold(x, y, 5)
    petal = np.hypot((along - 0.6) * 0.92, across) - 0.345
    return np.minimum(petal, np.hypot(along, across) - 0.36)


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "diamond": _diamond,
    "moon": _moon,
    "ring": _ring,
    "flower": _flower,
}
