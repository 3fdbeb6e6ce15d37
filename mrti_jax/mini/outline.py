# SPDX-License-Identifier: Apache-2.0
"""Finds the object's mask in a picture and identifies its shape by the renderer's own outlines."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from mrti_jax.mini.world.render import object_mask
from mrti_jax.mini.world.scene import Scene
from mrti_jax.mini.world.shapes import SHAPES

_SIDE = 36  # samples across the normalized mask
_SPAN = 2.35  # its half width, in standard deviations of the mask
_DIAMETERS = (27.0, 36.0, 46.0)
_ROTATIONS = (-9.0, -4.5, 0.0, 4.5, 9.0)
_ASPECTS = (0.88, 1.14)


@dataclass(frozen=True)
class Outline:
    """The best fitting shape; `x`, `y`: its estimated centre, in px of the picture."""

    shape: str
    x: float
    y: float


def _moments(mask: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "4"]:
    """Centroid x, y and standard deviations in x, y, in px."""
    total = mask.sum()
    at_y, at_x = (np.arange(n) + 0.5 for n in mask.shape)
    columns, rows = mask.sum(0) / total, mask.sum(1) / total
    x, y = columns @ at_x, rows @ at_y
    spread_x = np.sqrt(columns @ (at_x - x) ** 2 + 1e-6)
    spread_y = np.sqrt(rows @ (at_y - y) ** 2 + 1e-6)
    return np.array([x, y, spread_x, spread_y])


def _normalized(
    mask: Float[np.ndarray, "h w"], moments: Float[np.ndarray, "4"]
) -> Float[np.ndarray, " s"]:
    """The mask moved and stretched to zero mean and unit variance in x and y, flattened."""
    x, y, spread_x, spread_y = moments
    steps = np.linspace(-_SPAN, _SPAN, _SIDE)
    where = np.meshgrid(y + steps * spread_y - 0.5, x + steps * spread_x - 0.5, indexing="ij")
    return ndimage.map_coordinates(mask, where, order=1).ravel().astype(np.float32)


@cache
def _templates() -> tuple[list[str], Float[np.ndarray, "k s"], Float[np.ndarray, "k 2"]]:
    """Shape names, normalized masks, and offsets of the centre in spreads."""
    names, masks, frames = [], [], []
    for shape in SHAPES:
        for diameter in _DIAMETERS:
            for rotation in np.deg2rad(_ROTATIONS):
                for aspect in _ASPECTS:
                    scene = Scene(
                        shape, "plain", "red", "white",
                        diameter=diameter, rotation=float(rotation), aspect=aspect,
                    )  # fmt: skip
                    mask = object_mask(scene)
                    moments = _moments(mask)
                    x, y, spread_x, spread_y = moments
                    names.append(shape)
                    masks.append(_normalized(mask, moments))
                    frames.append(((32.0 - x) / spread_x, (32.0 - y) / spread_y))
    return names, np.stack(masks), np.array(frames)


def find_mask(difference: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The object's pixels, from each pixel's CIELAB distance to the background.

    Keeps the largest connected part (and others at least a fifth as large) and fills holes too
    small to belong to a ring. All False if nothing differs from the background,
    or nearly everything does.
    """
    far = difference[difference > 25.0]
    if far.size < 12:
        return np.zeros(difference.shape, bool)
    mask = difference > np.clip(0.5 * np.median(far), 18.0, 36.0)
    labels, _ = ndimage.label(mask)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    mask = (areas >= 0.2 * areas.max())[labels]
    if mask.mean() > 0.55:  # half as much again as any object covers
        return np.zeros_like(mask)
    holes, _ = ndimage.label(~mask)
    small = np.bincount(holes.ravel()) < 0.006 * mask.size
    small[0] = False
    return mask | small[holes]


def fit_outline(mask: Bool[np.ndarray, "h w"]) -> Outline:
    """The shape whose normalized outline overlaps the mask's best; the mask must not be empty."""
    soft = mask.astype(np.float32)
    moments = _moments(soft)
    seen = _normalized(soft, moments)
    names, masks, frames = _templates()
    overlap = np.minimum(masks, seen).sum(1)
    scores = overlap / (masks.sum(1) + seen.sum() - overlap)
    best = int(scores.argmax())
    x, y, spread_x, spread_y = moments
    dx, dy = frames[best]
    return Outline(
        shape=names[best],
        x=float(x + dx * spread_x),
        y=float(y + dy * spread_y),
    )
