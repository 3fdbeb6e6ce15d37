# SPDX-License-Identifier: Apache-2.0
"""The training loop: updates, metrics, checkpoints, pictures."""

import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from etils import epath
from tqdm import tqdm

from mrti_jax.concept import Concept
from mrti_jax.concept.table import FILE_NAME
from mrti_jax.errors import UserError
from mrti_jax.parallel.preemption import stop_requests
from mrti_jax.parallel.processes import is_writer
from mrti_jax.training.checkpoint import Checkpoints
from mrti_jax.training.config import TrainConfig
from mrti_jax.training.metrics import Metrics
from mrti_jax.training.step import Data, State, TrainStep


def train(
    train_step: TrainStep,
    state: State,
    frozen: dict[str, Any],
    data: Data,
    config: TrainConfig,
    *,
    metrics: Metrics,
    concept_of: Callable[[State], Concept],
    out: epath.Path | None,
    checkpoints: Checkpoints | None,
    settings: dict[str, Any],
    describe_fault: Callable[[State], str],
    draw_pictures: Callable[[int, Concept], None],
    title: str | None,
) -> State:
    """Runs the updates that are left and gives the last state.

    SIGTERM and SIGINT end it after a last checkpoint, as Preempted and KeyboardInterrupt; the same
    run goes on from there.
    At each checkpoint, the metrics up to it are on disk, and `concept.safetensors` is written.
    Raises UserError, with the last good table written, at an update that is not finite.
    `title`: of the progress bar; none is shown without it.
    """
    first = int(state["step"])
    bar = tqdm(
        range(first, config.steps),
        title,
        initial=first,
        total=config.steps,
        unit="step",
        disable=title is None,
        file=sys.stderr,
    )
    with bar, stop_requests() as stop:
        for step in bar:
            state = train_step(state, frozen, data)
            done = step + 1
            last = done == config.steps
            stopping = stop.reached(done) and not last
            if step == first:
                jax.block_until_ready(state["table"])
                metrics.start_clock(done)
            if done % config.metrics_every == 0 or last:
                state = metrics.record(done, state)
                if last:
                    metrics.flush()
                if not metrics.stuck and math.isfinite(metrics.examples_per_second):
                    speed = f"{metrics.examples_per_second:.1f} examples/s"
                    bar.set_postfix_str(f"loss {metrics.loss:.4f}, {speed}")
            saving = done % config.checkpoint_every == 0 or last or stopping
            # The state stays as it was before an update that is not finite. Asking it at every step
            # would make the devices wait.
            if metrics.stuck or (saving and int(state["step"]) < done):
                _stop_at_fault(describe_fault(state), concept_of(state), out)
            if saving:
                metrics.flush()
                concept = concept_of(state)
                if checkpoints is not None:
                    checkpoints.save(done, state, concept, settings)
                if out is not None and is_writer():
                    concept.save(out / FILE_NAME)
            if stopping:
                if checkpoints is not None:
                    checkpoints.wait()
                stop.leave(f"stopped after {done} of {config.steps} steps")
            if config.picture_every and done % config.picture_every == 0 and not last:
                draw_pictures(done, concept_of(state))
    return state


def _stop_at_fault(fault: str, concept: Concept, out: epath.Path | None) -> NoReturn:
    saved = ""
    if out is not None:
        if is_writer():
            concept.save(out / FILE_NAME)
        saved = f"; the table before it is saved in {out / FILE_NAME}"
    raise UserError(
        f"{fault}{saved}: begin anew with a lower --optimizer.learning-rate, or in float32 "
        "(--model.dtype)"
    )
