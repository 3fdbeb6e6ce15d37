# SPDX-License-Identifier: Apache-2.0
"""Milliseconds that the host takes to launch a train step: those of a program that takes as many
arrays as the step of Stable Diffusion 1.5 or XL does, and does nothing with them.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.report import Report
from mrti_jax.models.attention import Kernel
from mrti_jax.parallel.mesh import make_mesh
from mrti_jax.planning.presets import find_preset, shapes_only
from mrti_jax.training.step import frozen_params


@dataclass(frozen=True, kw_only=True)
class Flags:
    runs: int = 50
    """Launches of each program; the median is reported."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Measures and reports."""
    report = Report("Milliseconds to launch a program on the host")
    rows = []
    mesh = make_mesh(jax.devices()[:1])
    for name in ("sd15", "sdxl"):
        sd = shapes_only(name, find_preset(name), mesh, "bfloat16", Kernel())
        arrays = jax.tree.map(lambda _: jnp.zeros(1), frozen_params(sd))
        rows.append(row(f"as many arrays as {name}", arrays, flags.runs))
    rows.append(row("one array", jnp.zeros(1), flags.runs))
    report.table(("program", "arrays", "ms"), rows)
    report.end(flags.out)


def row(what: str, arrays: Any, runs: int) -> tuple[str, ...]:
    """A line of the table."""
    launch = jax.jit(lambda step, arrays: step + 1, keep_unused=True)
    return what, str(len(jax.tree.leaves(arrays))), f"{1e3 * median(launch, arrays, runs):.2f}"


def median(launch: Callable[[jax.Array, Any], jax.Array], arrays: Any, runs: int) -> float:
    """Processor seconds of the calling thread: other work on the machine does not count."""
    step, seconds = launch(jnp.asarray(np.int32(0)), arrays), []
    for _ in range(runs):
        jax.block_until_ready(step)
        start = time.thread_time()
        step = launch(step, arrays)
        seconds.append(time.thread_time() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
