# SPDX-License-Identifier: Apache-2.0
"""Training and sampling in examples and pictures per second, ours and PyTorch's, by turns.

PyTorch as published is `published.py` in float32; with another dtype, it is measured in that as
well.
"""

import dataclasses
import os
import statistics
import time
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from benchmarks.processes import Side, Work, by_turns
from benchmarks.random_model import model_folder
from benchmarks.report import Report

OURS = "mrti_jax"
# The U-Net of Stable Diffusion 1.x at 512 px, forward and as much again for the gradient; 50 steps
# with guidance (51 calls by PNDM) and the autoencoder.
TFLOP = {"train": 1.6, "sample": 84.4}
FULL_SIZE, FULL_STEPS = 512, 50


@dataclass(frozen=True, kw_only=True)
class Flags:
    model: str | None = None
    """A diffusers folder; Stable Diffusion 1.5 with random weights if not given."""
    programs: tuple[Literal["train", "sample"], ...] = ("train", "sample")
    """What is measured."""
    size: int = FULL_SIZE
    """Height and width in pixels."""
    batch_size: int = 1
    """Examples of an update, and pictures at once."""
    updates: int = 10
    """Updates that are timed together."""
    sampling_steps: int = FULL_STEPS
    """Sampling steps."""
    rounds: int = 2
    """Turns of each side."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen weights."""
    best: bool = False
    """Compare with PyTorch's best form as well."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Measures and reports."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process leaves a GPU to the sides
    report = Report(f"Speed at {flags.size} px in {flags.dtype}, without loading and compiling")
    rate = matmul_rate() if jax.default_backend() != "cpu" else None
    if rate is not None:
        report.line(f"a product of bfloat16 matrices here: {rate / 1e12:.0f} TFLOP/s")
    failed = False
    with model_folder(flags.model) as folder:
        for program in flags.programs:
            steps = flags.updates if program == "train" else flags.sampling_steps
            one = "example" if program == "train" else "picture"
            report.line()
            report.line(f"{program}, {steps} {'updates' if program == 'train' else 'steps'}:")
            work = Work(
                folder=folder,
                program=program,
                size=flags.size,
                batch_size=flags.batch_size,
                steps=steps,
                dtype=flags.dtype,
            )
            compared = sides(work, flags.best)
            speeds = by_turns(report, compared, flags.rounds, one)
            failed |= len(speeds) < len(compared)
            if rate is not None and flags.size == FULL_SIZE and OURS in speeds:
                part = 1.0 if program == "train" else steps / FULL_STEPS
                used = 1e12 * TFLOP[program] * part * speeds[OURS]
                report.line(
                    f"{OURS}, counting {TFLOP[program] * part:g} TFLOP for Stable Diffusion 1.x: "
                    f"{used / 1e12:.0f} TFLOP/s, {100 * used / rate:.0f} % of the product"
                )
    report.end(flags.out)
    if failed:
        raise SystemExit(1)


def sides(work: Work, best: bool) -> list[Side]:
    """Ours, and PyTorch's."""
    found = [Side(OURS, "benchmarks.ours", work)]
    in_float32 = dataclasses.replace(work, dtype="float32")
    found.append(Side("PyTorch as published", "benchmarks.published", in_float32))
    if work.dtype != "float32":
        found.append(Side(f"PyTorch, {work.dtype}", "benchmarks.published", work))
    if best:
        in_best = dataclasses.replace(work, best=True)
        found.append(Side("PyTorch's best", "benchmarks.published", in_best))
    return found


def matmul_rate(length: int = 8192, times: int = 20) -> float:
    """FLOP per second of a product of two square matrices of normal numbers in bfloat16."""
    left, right = jax.random.normal(jax.random.key(0), (2, length, length), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    product(left, right).block_until_ready()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready([product(left, right) for _ in range(times)])
        seconds.append((time.perf_counter() - start) / times)
    return 2 * length**3 / statistics.median(seconds)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
