# SPDX-License-Identifier: Apache-2.0
"""Textures as signed distances (scene px) that are positive where their marks are."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Plane = Float[np.ndarray, "h w"]


def _bars(u: Plane, period: float, phase: float, duty: float) -> Plane:
    """Bars of width duty * period across `u`, one every period."""
    offset = u / period + phase
    return (duty / 2 - np.abs(offset - np.round(offset))) * period


def _striped(u: Plane, v: Plane, period: float, phase: float, duty: float) -> Plane:
    return _bars(u, period, phase, duty)


def _dotted(u: Plane, v: Plane, period: float, phase: float, duty: float) -> Plane:
    spacing = 1.1 * period  # dots need more room than stripes to stay visible
    a, b = u / spacing + phase, v / spacing + phase
    gap = np.hypot(a - np.round(a), b - np.round(b))
    return (0.12 + 0.42 * duty - gap) * spacing


def _checked(u: Plane, v: Plane, period: float, phase: float, duty: float) -> Plane:
    a = _bars(u, 1.4 * period, phase, 0.5)
    b = _bars(v, 1.4 * period, phase, 0.5)
    return np.sign(a) * np.sign(b) * np.minimum(np.abs(a), np.abs(b))


def _ringed(u: Plane, v: Plane, period: float, phase: float, duty: float) -> Plane:
    return _bars(np.hypot(u, v), period, phase, duty)


def _zigzag(u: Plane, v: Plane, period: float, phase: float, duty: float) -> Plane:
    teeth = v / (1.5 * period)
    wave = np.abs(teeth - np.round(teeth)) * 2.0 * period
    return _bars(u + wave, 1.1 * period, phase, duty) * 0.77  # the slanted bars are thinner


TEXTURES: dict[str, Callable[[Plane, Plane, float, float, float], Plane] | None] = {
    "plain": None,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "ringed": _ringed,
    "zigzag": _zigzag,
}
