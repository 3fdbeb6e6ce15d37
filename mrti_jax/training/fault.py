# SPDX-License-Identifier: Apache-2.0
"""What went into an update that is not finite: its step, buckets and images."""

import jax.numpy as jnp
import numpy as np

from mrti_jax.concept import bucket
from mrti_jax.parallel.mesh import fetch
from mrti_jax.training.config import TrainConfig
from mrti_jax.training.draws import draw
from mrti_jax.training.step import State
from mrti_jax.training.training_set import TrainingSet


def describe_fault(
    state: State, training_set: TrainingSet, config: TrainConfig, num_train_timesteps: int
) -> str:
    """The update that the state stopped at; its draws follow from seed and step, so they are drawn
    again."""
    names, prompts = training_set.names, training_set.prompts
    rows = np.flatnonzero(fetch(state["fault"]))
    step = int(state["step"])
    draws = draw(
        jnp.uint32(config.seed),
        jnp.int32(step),
        jnp.arange(config.batch_size, dtype=jnp.int32),
        batch_size=config.batch_size,
        latent_shape=(1, 1, 1),
        num_train_timesteps=num_train_timesteps,
        timesteps=config.timesteps,
        flip=False,
        first_prompt=jnp.asarray(prompts.first),
        num_prompts=jnp.asarray(prompts.num),
    )
    buckets = np.asarray(bucket(draws.timestep, len(state["fault"]), num_train_timesteps))
    met = [
        f"bucket {row} (image {' or '.join(dict.fromkeys(names[i] for i in photos))})"
        for row in rows
        if (photos := np.asarray(draws.photo)[buckets == row]).size
    ]
    where = ", ".join(met) or f"bucket {', '.join(map(str, rows))}"
    return f"the loss or its gradient is not finite at step {step + 1}, {where}"
