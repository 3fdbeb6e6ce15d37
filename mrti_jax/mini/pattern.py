# SPDX-License-Identifier: Apache-2.0
"""Identifies a two-colour texture by how well the renderer's own textures explain it."""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

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
    """The texture in [-1, 1], 1 where the second colour is."""
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


def _correlation(
    patterns: Float[np.ndarray, "k n"], seen: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " k"]:
    """Absolute correlation of each row with `seen`, which has mean 0 and norm 1."""
    count = patterns.shape[1]
    spread = np.einsum("kn,kn->k", patterns, patterns) - patterns.sum(1) ** 2 / count
    return np.abs(patterns @ seen) / np.sqrt(np.maximum(spread, 1e-3))


def _agreement(
    patterns: Float[np.ndarray, "k n"], share: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " k"]:
    """Part of the variance of `share` that each row, or its negative, explains as it stands.

    Unlike the correlation it tells checks from dots, which cover less than half of the area.
    """
    signed = 2.0 * share - 1.0
    power = (patterns * patterns).sum(1) + signed @ signed
    error = power - 2.0 * np.abs(patterns @ signed)
    return 1.0 - error / np.maximum(((signed - signed.mean()) ** 2).sum(), 1e-3)


def fit_pattern(
    share: Float[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"], x: float, y: float
) -> tuple[str, float]:
    """The texture that `share` (one colour's share of each pixel) follows `inside` the object.

    `x`, `y` is the object's centre in px. Returns the name and the part of the variance explained.
    """
    rows, columns = np.nonzero(inside)
    at_x, at_y = columns + 0.5 - x, rows + 0.5 - y
    values = share[rows, columns].astype(np.float32)
    seen = values - values.mean()
    seen /= np.linalg.norm(seen) + 1e-6
    details, bank = _bank()
    cells = [np.clip((at + _REACH).astype(int), 0, 2 * _REACH - 1) for at in (at_y, at_x)]
    coarse = _correlation(bank[:, cells[0] * 2 * _REACH + cells[1]], seen)
    best: dict[str, int] = {}
    for index in map(int, np.argsort(-coarse)):
        best.setdefault(details[index].texture, index)
        if len(best) == _RIVALS:
            break
    fine = {details[i].texture: _refined(details[i], at_x, at_y, values) for i in best.values()}
    name = max(fine, key=lambda texture: fine[texture])
    return name, fine[name]


def _refined(
    start: _Details,
    at_x: Float[np.ndarray, " n"],
    at_y: Float[np.ndarray, " n"],
    share: Float[np.ndarray, " n"],
) -> float:
    """The best agreement found by small changes of `start`'s details, centre and duty."""
    x, y = at_x[None].astype(np.float32), at_y[None].astype(np.float32)

    def agreement(tries: Float[np.ndarray, "k 6"]) -> Float[np.ndarray, " k"]:
        patterns = [
            _pattern(_Details(start.texture, angle, period, phase), x + dx, y + dy, duty)[0]
            for angle, period, phase, dx, dy, duty in tries.tolist()
        ]
        return _agreement(np.stack(patterns).astype(np.float32), share)

    best = np.array([start.angle, start.period, start.phase, 0.0, 0.0, 0.5])
    top = float(agreement(best[None])[0])
    for width in _WIDTHS:
        for detail, step in enumerate(width * _STEPS):  # one detail at a time
            tries = best + np.outer(_OFFSETS * step, np.arange(len(best)) == detail)
            scores = agreement(tries)
            if scores.max() > top:
                top, best = float(scores.max()), tries[int(scores.argmax())]
    return top
