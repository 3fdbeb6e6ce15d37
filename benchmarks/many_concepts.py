# SPDX-License-Identifier: Apache-2.0
"""What an update of many concepts' examples costs, compared with one of a single concept's."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks.random_photos import random_photos
from benchmarks.report import Report
from mrti_jax.concept import initial_vectors
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training.config import Config, TrainConfig
from mrti_jax.training.slots import fill
from mrti_jax.training.step import frozen_params, initial_state, make_train_step


@dataclass(frozen=True, kw_only=True)
class Flags:
    model: str = "mini"
    """The embedded model, a folder or a file."""
    size: int = 64
    """Height and width in pixels."""
    examples: int = 64
    """Examples of an update, each of a concept of its own or all of one."""
    updates: int = 8
    """Updates of each side that are timed, by turns."""
    out: str | None = None
    """File for the report."""


class Side:
    """A compiled update of some concepts, with the same number of examples in all."""

    def __init__(self, sd: StableDiffusion, flags: Flags, num_concepts: int):
        config = Config(train=TrainConfig(batch_size=flags.examples // num_concepts))
        vectors = initial_vectors(
            "star", config.concept.num_vectors, sd.tokenizers, sd.text_encoder
        )
        table = np.tile(vectors, (config.concept.num_buckets, 1, 1))

        self._frozen = frozen_params(sd)
        data = random_photos(sd, config, flags.size)
        self._data: Any = fill(data, num_concepts, sd.mesh)
        self._state = fill(initial_state(table, config.optimizer), num_concepts, sd.mesh)
        self._rates = np.full(num_concepts, 1e-3, np.float32)
        step: Any = make_train_step(sd, config)
        self._step = step.lower(self._state, self._frozen, self._data, self._rates).compile()
        self.times: list[tuple[float, float]] = []

    def update(self) -> None:
        """One update, timed."""
        start = time.perf_counter(), time.process_time()
        self._state = jax.block_until_ready(
            self._step(self._state, self._frozen, self._data, self._rates)
        )
        self.times.append((time.perf_counter() - start[0], time.process_time() - start[1]))

    def figures(self) -> list[float]:
        """Wall and processor seconds of an update but the first (median), GFLOP, GB of traffic and
        MiB of temporaries by the compiler."""
        cost = self._step.cost_analysis()
        seconds = [statistics.median(times) for times in zip(*self.times[1:], strict=True)]
        memory = self._step.memory_analysis().temp_size_in_bytes / 2**20
        return [*seconds, cost["flops"] / 1e9, cost["bytes accessed"] / 1e9, memory]


def main(flags: Flags) -> None:
    """Both sides by turns."""
    report = Report(
        f"One update of {flags.examples} examples at {flags.size} px, all of one concept, and each "
        "of a concept of its own (with its own table, photos, captions and optimizer)"
    )
    sd = StableDiffusion.load(flags.model, dtype="float32")
    one, many = (Side(sd, flags, num_concepts) for num_concepts in (1, flags.examples))
    for _ in range(flags.updates + 1):
        one.update()
        many.update()
    rows = [
        (name, *(f"{value:.2f}" for value in side.figures()))
        for name, side in (("one concept", one), (f"{flags.examples} concepts", many))
    ]
    ratios = (f"{b / a:.3f}" for a, b in zip(one.figures(), many.figures(), strict=True))
    header = ("", "seconds", "processor seconds", "GFLOP", "GB of traffic", "MiB of temporaries")
    report.table(header, [*rows, ("many / one", *ratios)])
    report.line()
    report.line("seconds: medians of updates by turns; the rest by XLA's count of the program")
    report.end(flags.out)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
