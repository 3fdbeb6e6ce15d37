# SPDX-License-Identifier: Apache-2.0
"""The training loop: updates, metrics, checkpoints, pictures."""

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from mrti_jax.concept import Concept
from mrti_jax.concept.table import FILE_NAME
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
    draw_pictures: Callable[[int, Concept], None],
    title: str | None,
) -> State:
    """Runs the updates that are left and gives the last state.

    SIGINT and SIGTERM end it after a last checkpoint, as KeyboardInterrupt, to be gone on from.
    At each checkpoint, the metrics up to it are on disk, and `concept.safetensors` is written.
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
    with bar, _stop_requests() as stop:
        for step in bar:
            state = train_step(state, frozen, data)
            done = step + 1
            last = done == config.steps
            if step == first:
                jax.block_until_ready(state["table"])
                metrics.start_clock(done)
            if done % config.metrics_every == 0 or last:
                state = metrics.record(done, state)
                if last:
                    metrics.flush()
                if math.isfinite(metrics.examples_per_second):
                    speed = f"{metrics.examples_per_second:.1f} examples/s"
                    bar.set_postfix_str(f"loss {metrics.loss:.4f}, {speed}")
            if done % config.checkpoint_every == 0 or last or stop.is_set():
                metrics.flush()
                concept = concept_of(state)
                if checkpoints is not None:
                    checkpoints.save(done, state, concept, settings)
                if out is not None and jax.process_index() == 0:
                    concept.save(out / FILE_NAME)
            if config.picture_every and done % config.picture_every == 0 and not last:
                draw_pictures(done, concept_of(state))
            if stop.is_set() and not last:
                raise KeyboardInterrupt
    return state


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that is set by the first SIGINT or SIGTERM; the second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may have signal handlers
        return

    def request(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
