# SPDX-License-Identifier: Apache-2.0
"""Our side of `speed`: an update of one concept's table, or a batch of pictures."""

import time
from collections.abc import Callable

import jax
import numpy as np
import tyro

from benchmarks.processes import Work, peak_memory, serve
from benchmarks.random_photos import random_photos
from mrti_jax import StableDiffusion, generate
from mrti_jax.concept import initial_vectors
from mrti_jax.parallel.compiler import compile_ahead
from mrti_jax.parallel.mesh import memory_limit
from mrti_jax.training.config import Config, TrainConfig
from mrti_jax.training.memory import needs_remat
from mrti_jax.training.slots import fill
from mrti_jax.training.step import frozen_params, initial_state, make_train_step


def main(work: Work) -> None:
    """Prepares, then measures as often as it is asked to."""
    serve(train(work) if work.program == "train" else sample(work), held)


def train(work: Work) -> Callable[[], tuple[float, float]]:
    """Returns a function that updates and returns wall and processor seconds of an update."""
    sd = StableDiffusion.load(work.folder, dtype=work.dtype)
    config = Config(train=TrainConfig(batch_size=work.batch_size))
    data = fill(random_photos(sd, config, work.size), 1, sd.mesh)
    latent_shape = sd.vae.config.latent_shape(work.size, work.size)
    remat = needs_remat(sd, config, latent_shape, memory_limit(sd.mesh))
    step = make_train_step(sd, config, remat=remat)
    vectors = initial_vectors("red", 1, sd.tokenizers, sd.text_encoder)
    table = np.tile(vectors, (config.concept.num_buckets, 1, 1))
    rates = np.full(1, 1e-3, np.float32)
    state, frozen = fill(initial_state(table, config.optimizer), 1, sd.mesh), frozen_params(sd)
    compile_ahead(step, state, frozen, data, rates)

    def measure(steps: int = work.steps) -> tuple[float, float]:
        nonlocal state
        start = time.perf_counter(), time.process_time()
        for _ in range(steps):
            state = step(state, frozen, data, rates)
        jax.block_until_ready(state)
        wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
        return wall / steps, processor / steps

    measure(1)
    return measure


def sample(work: Work) -> Callable[[], tuple[float, float]]:
    """Returns a function that draws a batch, prompt to pixels, and returns its wall and processor
    seconds."""
    sd = StableDiffusion.load(work.folder, dtype=work.dtype)

    def measure() -> tuple[float, float]:
        start = time.perf_counter(), time.process_time()
        generate(
            sd,
            "a photo of a star",
            images_per_prompt=work.batch_size,
            batch_size=work.batch_size,
            num_steps=work.steps,
            sampler="pndm",
            height=work.size,
            width=work.size,
        )
        return time.perf_counter() - start[0], time.process_time() - start[1]

    measure()
    return measure


def held() -> int:
    """Peak memory of the accelerator or, without one, of the process."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or peak_memory()


if __name__ == "__main__":
    main(tyro.cli(Work, description=__doc__))
