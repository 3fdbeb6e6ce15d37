# SPDX-License-Identifier: Apache-2.0
"""3x3 convolutions on one core of a CPU, forward and gradient in the input: by XLA, as a matrix
product (`FEW_POSITIONS` in `mrti_jax/models/layers.py`), and by PyTorch."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from benchmarks.report import Report
from mrti_jax.models import layers

# Side, input and output channels: of Stable Diffusion 1.5's U-Net at 256 px.
SHAPES = ((32, 320, 320), (16, 640, 640), (8, 1280, 1280), (8, 2560, 1280), (4, 1280, 1280))


@dataclass(frozen=True, kw_only=True)
class Flags:
    turns: int = 10
    """Times that each is measured, by turns; the medians are reported."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """All sides by turns."""
    report = Report("3x3 convolutions, float32, batch 1: milliseconds, forward and gradient")
    rows = []
    for side, inputs, outputs in SHAPES:
        sides = [
            ours(side, inputs, outputs, few_positions=0),
            ours(side, inputs, outputs, few_positions=side**2),
            pytorch(side, inputs, outputs),
        ]
        for forward, both in sides:
            forward(), both()  # what only the first calls do
        times = [
            [(seconds(forward), seconds(both)) for forward, both in sides]
            for _ in range(flags.turns)
        ]
        cells = []
        for measured in zip(*times, strict=True):
            forward, both = (statistics.median(each) for each in zip(*measured, strict=True))
            cells.append(f"{1e3 * forward:.0f}, {1e3 * (both - forward):.0f}")
        rows.append((f"{side} x {side}, {inputs} to {outputs}", *cells))
    header = ("picture, channels", "XLA (Eigen)", "as a matrix product", "PyTorch (oneDNN)")
    report.table(header, rows)
    report.end(flags.out)


Work = tuple[Callable[[], object], Callable[[], object]]


def ours(side: int, inputs: int, outputs: int, *, few_positions: int) -> Work:
    """The convolution, and the convolution with its gradient."""
    with mock.patch.object(layers, "FEW_POSITIONS", few_positions):
        conv = layers.conv(inputs, outputs, dtype=jnp.float32, rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(conv)

        def forward(state: Any, x: Any) -> Any:
            return nnx.merge(graphdef, state)(x)

        def both(state: Any, x: Any) -> Any:
            out, pullback = jax.vjp(lambda x: forward(state, x), x)
            return out, pullback(out)

        x = jnp.ones((1, side, side, inputs))
        compiled = [jax.jit(work).lower(state, x).compile() for work in (forward, both)]
    first, second = (lambda work=work: jax.block_until_ready(work(state, x)) for work in compiled)
    return first, second


def pytorch(side: int, inputs: int, outputs: int) -> Work:
    """The same in PyTorch."""
    import torch

    torch.set_num_threads(1)
    conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1).requires_grad_(False)
    x = torch.ones(1, inputs, side, side)
    seen = torch.ones_like(x, requires_grad=True)

    def both() -> object:
        out = conv(seen)
        return torch.autograd.grad(out, seen, out.detach())

    return lambda: conv(x), both


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
