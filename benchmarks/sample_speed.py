# SPDX-License-Identifier: Apache-2.0
"""Pictures per second and memory of sampling with guidance: ours and PyTorch's, by turns."""

import json
import time
from dataclasses import dataclass
from typing import Literal

import tyro

from benchmarks.processes import Side, by_turns, peak_memory
from benchmarks.random_model import model_folder
from benchmarks.report import Report
from mrti_jax import StableDiffusion, generate


@dataclass(frozen=True, kw_only=True)
class Flags:
    model: str | None = None
    """A diffusers folder; Stable Diffusion 1.5 with random weights if not given."""
    size: int = 512
    """Height and width in pixels."""
    batch_size: int = 1
    """Pictures at once."""
    steps: int = 50
    """Sampling steps."""
    rounds: int = 1
    """Processes of each side."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    best: bool = False
    """Compare with PyTorch's best form as well."""
    ours: bool = False
    """For the process that this one starts: measure our side alone."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Both sides by turns, or ours alone."""
    if flags.ours:
        print(json.dumps({"seconds": sample(flags), "memory": peak_memory()}))
        return
    report = Report(
        f"Sampling, {flags.size} px, batch {flags.batch_size}, {flags.steps} steps with guidance, "
        f"{flags.dtype}: prompts to pixels, without loading and compiling"
    )
    with model_folder(flags.model) as folder:
        common = ["--size", f"{flags.size}", "--batch-size", f"{flags.batch_size}"]
        common += ["--steps", f"{flags.steps}", "--dtype", flags.dtype]
        theirs = ["--folder", folder, "--program", "sample", *common]
        sides = [
            Side("mrti_jax", "benchmarks.sample_speed", ["--ours", "--model", folder, *common]),
            Side("PyTorch as published", "benchmarks.published", theirs),
        ]
        if flags.best:
            sides.append(Side("PyTorch's best", "benchmarks.published", [*theirs, "--best"]))
        by_turns(report, sides, flags.rounds, flags.batch_size, "picture")
    report.end(flags.out)


def sample(flags: Flags) -> list[tuple[float, float]]:
    """Wall and processor seconds of the second batch of pictures."""
    assert flags.model is not None
    sd = StableDiffusion.load(flags.model, dtype=flags.dtype)
    pairs = []
    for _ in range(2):
        start = time.perf_counter(), time.process_time()
        generate(
            sd,
            "a photo of a star",
            images_per_prompt=flags.batch_size,
            batch_size=flags.batch_size,
            num_steps=flags.steps,
            sampler="pndm",
            height=flags.size,
            width=flags.size,
        )
        pairs.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return pairs[1:]


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
