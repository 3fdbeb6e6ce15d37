# SPDX-License-Identifier: Apache-2.0
"""The training loop that all stages of the embedded model share: progress, checkpoints, resume."""

import time
from collections.abc import Callable
from typing import Any

import jax
import optax
import orbax.checkpoint as ocp
from etils import epath
from tqdm import tqdm

from mrti_jax.models.frozen import Params

EMA_DECAY = 0.999
SAVE_SECONDS = 120

Loss = Callable[[Params, Any, jax.Array, jax.Array], jax.Array]


def schedule(peak: float, steps: int) -> optax.Schedule:
    """Warm-up over 200 steps, constant, then linear to zero over the last 60 %."""
    warm_up, decay = min(200, steps // 10 + 1), 3 * steps // 5 + 1
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warm_up),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.0, decay),
        ],
        [warm_up, steps - decay],
    )


def fit(
    name: str,
    params: Params,
    loss: Loss,
    batch: Callable[[int], Any],
    *,
    steps: int,
    learning_rate: float,
    folder: epath.Path,
    seed: int = 0,
) -> Params:
    """Minimises `loss(params, batch(step), key, step)` with Adam and returns the averaged weights.

    The state is saved to `folder / name` every two minutes; the same call resumes from there.
    """
    tx = optax.adam(schedule(learning_rate, steps), b2=0.99)

    @jax.jit(donate_argnames=("state",))
    def train_step(state: dict[str, Any], data: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        value, grads = jax.value_and_grad(loss)(state["params"], data, key, step)
        updates, optimizer = tx.update(grads, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        decay = jax.numpy.minimum(EMA_DECAY, (1 + step) / (10 + step))
        ema = optax.incremental_update(params, state["ema"], 1 - decay)
        return {"params": params, "ema": ema, "optimizer": optimizer}, value

    state = {
        "params": params,
        "ema": jax.tree.map(jax.numpy.copy, params),
        "optimizer": tx.init(params),
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    # Committed from the start, as the results of a step are, so that the step compiles once.
    state = jax.device_put(state, jax.devices()[0])
    running = float("nan")
    with ocp.CheckpointManager(folder / name, options=options) as manager:
        first = manager.latest_step() or 0
        if first:
            shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
            state = manager.restore(first, args=ocp.args.StandardRestore(shapes))
        saved = time.monotonic()
        bar = tqdm(range(first, steps), name, initial=first, total=steps, mininterval=5)
        for step in bar:
            state, value = train_step(state, batch(step), step)
            if step % 20 == 19:
                value = float(value)
                running = value if running != running else 0.9 * running + 0.1 * value
                bar.set_postfix(loss=f"{running:.4f}", refresh=False)
            if time.monotonic() - saved > SAVE_SECONDS or step + 1 == steps:
                manager.save(step + 1, args=ocp.args.StandardSave(state))
                saved = time.monotonic()
    return state["ema"]
