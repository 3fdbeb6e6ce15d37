# SPDX-License-Identifier: Apache-2.0
"""AdamW on the table, in which a row without a gradient does not move.

Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2. Every row is a parameter with an optimizer
of its own: moments, weight decay and bias correction count only the updates in which the row had
an example. Bias correction must do so too: a row's first gradient at update 50 would otherwise be
divided by far too small a root mean square.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mrti_jax.training.config import OptimizerConfig
from mrti_jax.training.learning_rate import learning_rate_schedule


def initial_optimizer(config: OptimizerConfig, table: Float[Array, "n v d"]) -> dict[str, Any]:
    """The optimizer's state: of each row (first axis N), and of the base, if several share one."""
    state = {"rows": jax.vmap(_adam(config).init)(table)}
    has_base = config.shared and len(table) > 1
    return state | {"base": _adam(config).init(table[0])} if has_base else state


def update_table(
    config: OptimizerConfig,
    steps: int,
    step: Int[Array, ""],
    table: Float[Array, "n v d"],
    gradient: Float[Array, "n v d"],
    state: dict[str, Any],
    trained: Bool[Array, "n"],
) -> tuple[Float[Array, "n v d"], dict[str, Any]]:
    """One update. Rows where `trained` is false keep value and state, bit for bit, unless the
    config is `dense`, which is PyTorch's AdamW on the whole table, or `shared`.

    `shared`: row n is base + offset n, and Adam moves base and offsets by their own gradients; the
    base's is the sum of all rows'. But all offsets are divided by the same root mean square, the
    largest of theirs: at timesteps that say little about the word a row stays near the base, while
    its own would make it wander as far as the others. Only the table is kept, since both moves
    apply to it. A table of one row has no base: it would move twice.
    """
    if config.dense:
        trained = jnp.ones_like(trained)

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(trained.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    directions, rows = jax.vmap(_adam(config).update)(gradient, state["rows"])
    new_state = {"rows": jax.tree.map(keep, rows, state["rows"])}
    base_direction: Array | float = 0.0
    if "base" in state:
        divisors = _divisors(config, new_state["rows"])
        directions *= divisors / divisors.max(0)
        base_direction, new_state["base"] = _adam(config).update(gradient.sum(0), state["base"])
    moves = base_direction + keep(directions + config.weight_decay * table, jnp.zeros_like(table))
    return table - learning_rate_schedule(config, steps)(step) * moves, new_state


def _divisors(config: OptimizerConfig, rows: optax.ScaleByAdamState) -> Float[Array, "n v d"]:
    """What Adam divides each row's mean gradient by (algorithm 2, line 12)."""
    correction = 1 - config.beta2 ** jnp.maximum(rows.count, 1)
    return jnp.sqrt(rows.nu / correction[:, None, None]) + config.eps


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.beta1, config.beta2, config.eps)
