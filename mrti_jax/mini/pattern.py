# SPDX-License-Identifier: Apache-2.0
"""Identifies a texture by how well the renderer's own textures explain it."""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mrti_jax.mini.world.textures import TEXTURES

_REACH = 26  # px on each side of the object's centre
_TURNS = {"striped": 20, "dotted": 10, "checked": 10, "ringed": 1, "zigzag": 20}
_PHASES = {"striped": 5, "dotted": 6, "checked": 6, "ringed": 6, "zigzag": 5}
_SQUARE = ("dotted", "checked")
_PERIODS = np.linspace(8.7, 12.3, 6)
_STEPS = np.array([0.09, 0.5, 0.14, 1.2, 1.2, 0.1])  # angle, period, phase, x, y, duty
_WIDTHS = (1.0, 0.5)  # of the search around a texture's best pattern, round by round
_OFFSETS = np.array([-1.0, -0.5, 0.5, 1.0])
_RIVALS = 3  # textures that are fitted closely


class _Details(NamedTuple):
    texture: str
    angle: float
    period: float
    phase: float


def _pattern(
    details: _Details, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"], duty: float = 0.5
) -> Float[np.ndarray, "h w"]:
    """The texture in [-1, 1], 1 where its marks are."""
    texture = TEXTURES[details.texture]
    assert texture is not None
    cos, sin = np.cos(details.angle), np.sin(details.angle)
    u, v = cos * x + sin * y, cos * y - sin * x
    return np.clip(texture(u, v, details.period, details.phase, duty), -1.0, 1.0)


@cache
def _bank() -> tuple[list[_Details], Float[np.ndarray, "k s"]]:
    """A coarse grid of details and their patterns around the centre, flattened."""
    steps = np.arange(-_REACH, _REACH, dtype=np.float32) + 0.5
    x, y = np.meshgrid(steps, steps)
    details = [
        # Dots and checks look the same after a quarter turn, stripes after a half turn.
        _Details(name, (turn / turns - 0.5) * np.pi / (2 if name in _SQUARE else 1), p, phase)
        for name, turns in _TURNS.items()
        for turn in range(turns)
        for p in map(float, _PERIODS)
        for phase in (np.arange(_PHASES[name]) / _PHASES[name]).tolist()
    ]
    return details, np.stack([_pattern(d, x, y).ravel() for d in details]).astype(np.float32)


def light_basis(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, "6 n"]:
    """Orthonormal quadratic functions of place, which light on a rounded body nearly follows."""
    u, v = x / _REACH, y / _REACH
    functions = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])
    return np.linalg.qr(functions.T)[0].T.astype(np.float32)


def _explained(
    patterns: Float[np.ndarray, "k n"],
    seen: Float[np.ndarray, " n"],
    light: Float[np.ndarray, "6 n"],
) -> Float[np.ndarray, " k"]:
    """Part of the variance of `seen` that each row explains, as far as light explains neither.

    `seen` is orthogonal to `light` and of norm 1.
    """
    own = np.einsum("kn,kn->k", patterns, patterns) - ((patterns @ light.T) ** 2).sum(1)
    return (patterns @ seen) ** 2 / np.maximum(own, 1e-3)


def fit_pattern(
    seen: Float[np.ndarray, " n"], x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
) -> tuple[str, float]:
    """The texture that `seen`, values of the object's pixels without their light, follows.

    `x`, `y` are the pixels' places, in px from the object's centre. Returns the name and the part
    of the variance explained.
    """
    light = light_basis(x, y)
    seen = (seen / (np.linalg.norm(seen) + 1e-6)).astype(np.float32)
    details, bank = _bank()
    cells = [np.clip((at + _REACH).astype(int), 0, 2 * _REACH - 1) for at in (y, x)]
    coarse = _explained(bank[:, cells[0] * 2 * _REACH + cells[1]], seen, light)
    best: dict[str, int] = {}
    for index in map(int, np.argsort(-coarse)):
        best.setdefault(details[index].texture, index)
        if len(best) == _RIVALS:
            break
    fine = {details[i].texture: _refined(details[i], x, y, seen, light) for i in best.values()}
    name = max(fine, key=lambda texture: fine[texture])
    return name, fine[name]


def _refined(
    start: _Details,
    at_x: Float[np.ndarray, " n"],
    at_y: Float[np.ndarray, " n"],
    seen: Float[np.ndarray, " n"],
    light: Float[np.ndarray, "6 n"],
) -> float:
    """The most explained after small changes of `start`'s details, centre and duty."""
    x, y = at_x[None].astype(np.float32), at_y[None].astype(np.float32)

    def explained(tries: Float[np.ndarray, "k 6"]) -> Float[np.ndarray, " k"]:
        patterns = [
            _pattern(_Details(start.texture, angle, period, phase), x + dx, y + dy, duty)[0]
            for angle, period, phase, dx, dy, duty in tries.tolist()
        ]
        return _explained(np.stack(patterns).astype(np.float32), seen, light)

    best = np.array([start.angle, start.period, start.phase, 0.0, 0.0, 0.5])
    top = float(explained(best[None])[0])
    for width in _WIDTHS:
        for detail, step in enumerate(width * _STEPS):  # one detail at a time
            tries = best + np.outer(_OFFSETS * step, np.arange(len(best)) == detail)
            scores = explained(tries)
            if scores.max() > top:
                top, best = float(scores.max()), tries[int(scores.argmax())]
    return top
