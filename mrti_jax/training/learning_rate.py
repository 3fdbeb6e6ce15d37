# SPDX-License-Identifier: Apache-2.0
"""The learning rate: its peak if none is given, and its schedule.

Adam moves each element by about the rate, however small its gradient (Kingma & Ba 2015, arXiv
1412.6980, section 2.1). So the rate depends on how large token embeddings are, which differs
between text encoders.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from mrti_jax.models.frozen import Frozen
from mrti_jax.models.text_encoder import TextEncoder
from mrti_jax.parallel.mesh import fetch
from mrti_jax.training.config import Config, OptimizerConfig

# Of the embeddings' root mean square, divided by the word's vectors, which move it together. With
# Stable Diffusion 1.x it gives twice the paper's 2e-3 for one vector, as a peak and not throughout.
_SHARE = 0.3


def with_learning_rate(config: Config, text_encoder: Frozen[TextEncoder]) -> Config:
    """The config with a learning rate: its own, or one that suits the model's token embeddings."""
    if config.optimizer.learning_rate is not None:
        return config
    # Two digits, so that it is the same on every platform and any number of devices.
    share = _SHARE / config.concept.num_vectors
    rate = float(f"{share * fetch(_root_mean_square(text_encoder)):.1e}")
    return dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, learning_rate=rate)
    )


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate at each update: linear warm-up, then constant, cosine or linear to 0.

    Of fewer steps than the warm-up has, all are warm-up.
    """
    peak, warm_up = config.learning_rate, config.warmup_steps
    if peak is None:
        raise ValueError("there is no learning rate: choose it with `with_learning_rate`")
    left = max(steps - warm_up, 1)
    match config.schedule:
        case "constant":
            after: optax.Schedule = optax.constant_schedule(peak)
        case "cosine":
            after = optax.cosine_decay_schedule(peak, left)
        case "linear":
            after = optax.linear_schedule(peak, 0.0, left)
    # From 1/(w+1), not from 0, so that the first update is not lost.
    rise = optax.linear_schedule(peak / (warm_up + 1), peak, warm_up)
    return optax.join_schedules([rise, after], [warm_up]) if warm_up else after


def learning_rates(config: OptimizerConfig, steps: int) -> Float32[np.ndarray, " steps"]:
    """The learning rate of each of `steps` updates."""
    schedule = learning_rate_schedule(config, steps)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps, dtype=jnp.int32)), np.float32)


def _root_mean_square(text_encoder: Frozen[TextEncoder]) -> Float[Array, ""]:
    """Of the token embeddings, of all text models together."""

    @jax.jit
    def measure(params: dict[str, Any]) -> Float[Array, ""]:
        models = text_encoder.bind(params).models
        tables = [model.embeddings.token_embedding.embedding[...] for model in models]
        squares = sum(jnp.sum(jnp.square(table.astype(jnp.float32))) for table in tables)
        return jnp.sqrt(squares / sum(table.size for table in tables))

    return measure(text_encoder.params)
