# SPDX-License-Identifier: Apache-2.0
"""AdamW on the table, in which a row that no example moves stands still.

Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2. Every row is a parameter with an optimizer
of its own: moments, weight decay and bias correction count only the updates in which an example
moved the row. Bias correction must do so too: a row's first gradient at update 50 would otherwise
be divided by far too small a root mean square.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from mrti_jax.training.config import OptimizerConfig


def initial_optimizer(
    config: OptimizerConfig, table: Float[Array, "n v d"]
) -> optax.ScaleByAdamState:
    """The optimizer's state of each row (first axis N)."""
    return jax.vmap(_adam(config).init)(table)


def update_table(
    config: OptimizerConfig,
    rate: Float[Array, ""],
    table: Float[Array, "n v d"],
    gradient: Float[Array, "n v d"],
    state: optax.ScaleByAdamState,
    trained: Bool[Array, "n"],
) -> tuple[Float[Array, "n v d"], optax.ScaleByAdamState]:
    """One update by the learning rate `rate`; `trained` says which buckets had an example.

    Rows that none of them moves keep value and state, bit for bit, unless the config is `dense`,
    which is PyTorch's AdamW on the whole table.

    Row n moves by the sum of the gradients of bucket n and of all noisier ones m, each times
    `sharing`^(10 (m - n) / N). Then what the noisy buckets tell of a concept reaches the other
    rows, and the detail that only those see stays out of the coarse rows.
    """
    if config.sharing:
        weights = _sharing_weights(config.sharing, len(table))
        gradient = jnp.tensordot(weights, gradient, axes=1, precision=jax.lax.Precision.HIGHEST)
        trained = weights @ trained > 0
    if config.dense:
        trained = jnp.ones_like(trained)

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(trained.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    directions, moved = jax.vmap(_adam(config).update)(gradient, state)
    new_table = table - rate * (directions + config.weight_decay * table)
    return keep(new_table, table), jax.tree.map(keep, moved, state)


def _sharing_weights(sharing: float, num_rows: int) -> Float[Array, "n n"]:
    """How much row n (first axis) moves by the gradient of bucket m."""
    row, bucket = np.indices((num_rows, num_rows))
    return jnp.asarray(np.triu(sharing ** (10 * np.abs(bucket - row) / num_rows)), jnp.float32)


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.beta1, config.beta2, config.eps)
