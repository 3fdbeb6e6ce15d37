# SPDX-License-Identifier: Apache-2.0
"""Examples per second and memory of a training run: ours and PyTorch's, by turns."""

import json
import time
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
import tyro

from benchmarks.processes import Side, by_turns, peak_memory
from benchmarks.random_model import model_folder
from benchmarks.report import Report
from mrti_jax.concept import initial_vectors
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.compiler import compile_ahead
from mrti_jax.parallel.mesh import memory_limit
from mrti_jax.training.config import ConceptConfig, Config, TrainConfig
from mrti_jax.training.images import from_arrays
from mrti_jax.training.latents import encode_moments
from mrti_jax.training.learning_rate import with_learning_rate
from mrti_jax.training.memory import needs_remat
from mrti_jax.training.prompts import tokenize_captions
from mrti_jax.training.slots import fill
from mrti_jax.training.step import Data, frozen_params, initial_state, make_train_step


@dataclass(frozen=True, kw_only=True)
class Flags:
    model: str | None = None
    """A diffusers folder; Stable Diffusion 1.5 with random weights if not given."""
    size: int = 512
    """Height and width in pixels."""
    batch_size: int = 1
    """Examples of an update."""
    steps: int = 10
    """Updates that are timed."""
    rounds: int = 1
    """Processes of each side."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen weights."""
    best: bool = False
    """Compare with PyTorch's best form as well."""
    ours: bool = False
    """For the process that this one starts: measure our side alone."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Both sides by turns, or ours alone."""
    if flags.ours:
        print(json.dumps({"seconds": train(flags), "memory": peak_memory()}))
        return
    report = Report(
        f"Training, {flags.size} px, batch {flags.batch_size}, {flags.dtype}: an update's time "
        "(median), without loading and compiling"
    )
    with model_folder(flags.model) as folder:
        common = ["--size", f"{flags.size}", "--batch-size", f"{flags.batch_size}"]
        common += ["--steps", f"{flags.steps}", "--dtype", flags.dtype]
        theirs = ["--folder", folder, "--program", "train", *common]
        sides = [
            Side("mrti_jax", "benchmarks.train_speed", ["--ours", "--model", folder, *common]),
            Side("PyTorch as published", "benchmarks.published", theirs),
        ]
        if flags.best:
            sides.append(Side("PyTorch's best", "benchmarks.published", [*theirs, "--best"]))
        by_turns(report, sides, flags.rounds, flags.batch_size, "example")
    report.end(flags.out)


def train(flags: Flags) -> list[tuple[float, float]]:
    """Wall and processor seconds of each update but the first."""
    assert flags.model is not None
    sd = StableDiffusion.load(flags.model, dtype=flags.dtype)
    config = Config(
        concept=ConceptConfig(num_vectors=1), train=TrainConfig(batch_size=flags.batch_size)
    )
    config = with_learning_rate(config, sd.text_encoder)
    noise = np.random.default_rng(0).integers(0, 256, (flags.size, flags.size, 3), np.uint8)
    photos = from_arrays([noise], flags.size)
    prompts = tokenize_captions(photos, "object", 1, sd.tokenizers, captions=False)
    moments = encode_moments(sd.vae, noise[None], sd.mesh, flip=False)
    sizes = np.asarray([photo.sizes for photo in photos], np.int32)
    data = fill(Data(moments, sizes, *prompts, np.uint32(0)), 1, sd.mesh)
    height, width, channels = moments.shape[2:]
    limit = memory_limit(sd.mesh.local_devices[0])
    remat = needs_remat(sd, config, (height, width, channels // 2), limit)
    step = make_train_step(sd, config, remat=remat)
    vectors = initial_vectors("red", 1, sd.tokenizers, sd.text_encoder)
    table = np.tile(vectors, (config.concept.num_buckets, 1, 1))
    state, frozen = fill(initial_state(table, config.optimizer), 1, sd.mesh), frozen_params(sd)
    compile_ahead(step, state, frozen, data)
    seconds = []
    for _ in range(flags.steps + 1):
        start = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(step(state, frozen, data))
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return seconds[1:]


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
