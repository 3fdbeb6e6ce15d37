# SPDX-License-Identifier: Apache-2.0
"""`metrics.jsonl`: one line of numbers every few updates, without gaps or doubles over resumes."""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from mrti_jax.errors import warn
from mrti_jax.files import append_line, write_whole
from mrti_jax.parallel.mesh import place
from mrti_jax.training.step import State, empty_window

FILE_NAME = "metrics.jsonl"
# Times the initializer's norm; learned rows are longer than words, some times over.
MAX_GROWTH = 30.0


class Metrics:
    """Takes the sums of a state, and writes them when the devices have got that far.

    A line has: `step` (updates done), `loss` (mean over the examples since the line before),
    `loss_per_bucket` (null for a bucket without examples) and `examples_per_bucket`, `norm` of each
    row, its `drift` (distance) from the initial row and its `cosine` with it, `learning_rate` of
    the last update, `examples_per_second`.
    """

    def __init__(
        self,
        path: epath.Path | None,
        start: Float[np.ndarray, "n v d"],
        schedule: Any,
        batch_size: int,
        resumed_step: int,
    ):
        """`path` None: nothing is written. Lines beyond `resumed_step` are cut off.

        `stuck`: whether fewer updates were done than steps, since one was not finite.
        """
        self.loss = float("nan")
        self.stuck = False
        self.examples_per_second = float("nan")
        self._warned = False
        self._path = path
        self._start = start
        self._schedule = schedule
        self._batch_size = batch_size
        self._pending: tuple[int, Any] | None = None
        self._clock: tuple[int, float] | None = None
        if path is not None:
            _cut(path, resumed_step)

    def start_clock(self, step: int) -> None:
        """Speed is counted from here: call it when the first update, and compiling, is done."""
        self._clock = (step, time.perf_counter())

    def record(self, step: int, state: State) -> State:
        """Takes the sums out of the state, and writes those that were taken the time before."""
        self.flush()
        rows = _describe_rows(state["table"], self._start, state["step"])
        self._pending = (step, (state["window"], rows))
        sharding: NamedSharding = state["table"].sharding
        return state | {"window": place(empty_window(len(self._start)), sharding)}

    def flush(self) -> None:
        """Waits for the sums that were taken last, and writes them.

        Warns, once, of rows that grow far beyond any word of the vocabulary.
        """
        if self._pending is None:
            return
        step, arrays = self._pending
        self._pending = None
        window, rows = jax.device_get(arrays)
        self.stuck = int(rows["updates"]) < step
        if self.stuck:
            return
        now = time.perf_counter()
        if self._clock is not None and step > self._clock[0]:
            first, since = self._clock
            self.examples_per_second = self._batch_size * (step - first) / (now - since)
        self._clock = (step, now)
        self.loss = float(window["loss"].sum() / window["examples"].sum())
        line = {
            "step": step,
            "loss": self.loss,
            "loss_per_bucket": [
                float(loss / count) if count else None
                for loss, count in zip(window["loss"], window["examples"], strict=True)
            ],
            "examples_per_bucket": window["examples"].tolist(),
            **{key: list(map(_number, rows[key].tolist())) for key in ("norm", "drift", "cosine")},
            "learning_rate": float(self._schedule(step - 1)),
            "examples_per_second": _number(self.examples_per_second),
        }
        if self._path is not None:
            append_line(self._path, json.dumps(line))
        self._warn_of_growth(step, rows["norm"])

    def _warn_of_growth(self, step: int, norm: Float[np.ndarray, "n"]) -> None:
        first = float(np.linalg.norm(self._start, axis=(1, 2)).max())
        longest = int(norm.argmax())
        if norm[longest] > MAX_GROWTH * first and not self._warned:
            self._warned = True
            warn(
                f"WARNING: the norm of row {longest} is {norm[longest]:.3g} after {step} steps, "
                f"{norm[longest] / first:.0f} times that of the initializer ({first:.3g}) and far "
                "from any word of the vocabulary: use a lower --optimizer.learning-rate"
            )


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None


@jax.jit
def _describe_rows(
    table: Float[Array, "n v d"], start: Float[Array, "n v d"], step: Int[Array, ""]
) -> dict[str, Array]:
    def norm(x: Float[Array, "n v d"]) -> Float[Array, "n"]:
        return jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2)))

    cosine = jnp.sum(table * start, axis=(1, 2)) / jnp.maximum(norm(table) * norm(start), 1e-12)
    rows = {"norm": norm(table), "drift": norm(table - start), "cosine": cosine}
    return rows | {"updates": step + 0}  # a copy: the next step reuses the state's memory


def _cut(path: epath.Path, step: int) -> None:
    """Removes the lines beyond `step`, and what a crash left of a line."""
    if not path.exists():
        return
    kept = []
    for text in path.read_bytes().splitlines():
        try:
            if json.loads(text)["step"] <= step:
                kept.append(text + b"\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_whole(path, b"".join(kept))
