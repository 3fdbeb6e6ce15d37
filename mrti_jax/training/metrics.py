# SPDX-License-Identifier: Apache-2.0
"""`metrics.jsonl`: one line of numbers every few updates, each once even after a resume."""

import functools
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32

from mrti_jax.errors import UserError, warn
from mrti_jax.files import append, in_object_store, reporting, write_whole
from mrti_jax.parallel.mesh import place, replicated
from mrti_jax.training.slots import slots_sharded
from mrti_jax.training.step import State

FILE_NAME = "metrics.jsonl"
# Times the initializer's norm; learned rows are several times as long as words.
MAX_GROWTH = 30.0


class Metrics:
    """The lines of one concept.

    A line has: `step` (updates done), `loss` (mean over the examples since the previous line),
    `loss_per_bucket` (null for a bucket without examples) and `examples_per_bucket`, `norm` of each
    row, its `drift` (distance) from the initial row and its `cosine` with it, `learning_rate` of
    the last update, `examples_per_second`.
    """

    def __init__(
        self,
        path: epath.Path | None,
        name: str,
        start: Float32[np.ndarray, "n v d"],
        rates: Float32[np.ndarray, " steps"],
        batch_size: int,
        resumed_step: int,
    ):
        """If `path` is None, nothing is written. Lines beyond `resumed_step` are removed.

        `stuck`: whether fewer updates were done than steps, because one was not finite. `problem`:
        why a line could not be written, in the process that writes.
        """
        self.loss = float("nan")
        self.stuck = False
        self.problem: UserError | None = None
        self._warned = False
        self._unwritten: list[str] = []
        self._path = path
        self._name = name
        self._start = start
        self._rates = rates
        self._batch_size = batch_size
        self._clock: tuple[int, float] | None = None
        if path is not None:
            _cut(path, resumed_step)

    def start_clock(self, step: int) -> None:
        """Measures speed from here: call it once the first update, and compiling, is done."""
        self._clock = (step, time.perf_counter())

    def write(
        self,
        step: int,
        updates: int,
        window: dict[str, np.ndarray],
        table: Float32[np.ndarray, "n v d"],
        now: float,
    ) -> None:
        """Writes a line about the state after `step` steps, of which `updates` were done; `now`:
        what `time.perf_counter` said then.

        Warns, once, of rows that grow far beyond any word of the vocabulary.
        """
        self.stuck = updates < step
        if self.stuck:
            return
        speed = float("nan")
        if self._clock is not None and step > self._clock[0]:
            first, since = self._clock
            speed = self._batch_size * (step - first) / (now - since)
        self._clock = (step, now)
        self.loss = float(window["loss"].sum() / window["examples"].sum())
        rows = _describe_rows(table, self._start)
        line = {
            "step": step,
            "loss": self.loss,
            "loss_per_bucket": [
                float(loss / count) if count else None
                for loss, count in zip(window["loss"], window["examples"], strict=True)
            ],
            "examples_per_bucket": window["examples"].tolist(),
            **{key: list(map(_number, values.tolist())) for key, values in rows.items()},
            "learning_rate": float(self._rates[step - 1]),
            "examples_per_second": _number(speed),
        }
        if self._path is not None:
            self._unwritten.append(json.dumps(line) + "\n")
            if not in_object_store(self._path):  # there it would be written anew for each
                self.flush()
        self._warn_of_growth(step, rows["norm"])

    def flush(self) -> None:
        """Writes the lines that are not written yet."""
        if self._path is None or self.problem is not None or not self._unwritten:
            return
        try:
            append(self._path, "".join(self._unwritten))
        except UserError as error:
            self.problem = error
        self._unwritten = []

    def _warn_of_growth(self, step: int, norm: Float32[np.ndarray, "n"]) -> None:
        first = float(np.linalg.norm(self._start, axis=(1, 2)).max())
        longest = int(norm.argmax())
        if norm[longest] > MAX_GROWTH * first and not self._warned:
            self._warned = True
            warn(
                f"the norm of row {longest} of <{self._name}> is {norm[longest]:.3g} "
                f"after {step} steps, {norm[longest] / first:.0f} times that of the initializer "
                f"({first:.3g}) and far from any word of the vocabulary: use a lower "
                "--optimizer.learning-rate"
            )


class Recorder:
    """Takes the sums out of a state, and writes them when the devices have got that far."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._pending: tuple[dict[int, tuple[Metrics, int]], Any, float] | None = None

    def record(self, state: State, due: dict[int, tuple[Metrics, int]]) -> State:
        """Takes the sums out of the slots `due`, whose metrics and steps they give.

        Writes what was taken the last time.
        """
        self.flush()
        is_due = place(np.isin(np.arange(len(state["step"])), list(due)), replicated(self._mesh))
        taken, window = _split_off(state, is_due, self._mesh)
        self._pending = due, taken, time.perf_counter()
        return state | {"window": window}

    def flush(self) -> None:
        """Waits for the sums that were taken last, and writes them."""
        if self._pending is None:
            return
        due, arrays, now = self._pending
        self._pending = None
        taken = jax.device_get(arrays)
        for slot, (metrics, step) in due.items():
            one = jax.tree.map(lambda array, slot=slot: array[slot], taken)
            metrics.write(step, int(one["step"]), one["window"], one["table"], now)


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None


def _describe_rows(
    table: Float32[np.ndarray, "n v d"], start: Float32[np.ndarray, "n v d"]
) -> dict[str, Float32[np.ndarray, "n"]]:
    def norm(x: Float32[np.ndarray, "n v d"]) -> Float32[np.ndarray, "n"]:
        return np.sqrt(np.sum(np.square(x), axis=(1, 2)))

    cosine = np.sum(table * start, axis=(1, 2)) / np.maximum(norm(table) * norm(start), 1e-12)
    return {"norm": norm(table), "drift": norm(table - start), "cosine": cosine}


@functools.partial(jax.jit, static_argnums=2)
def _split_off(
    state: State, due: Bool[Array, "s"], mesh: Mesh
) -> tuple[dict[str, Any], dict[str, Array]]:
    """What the lines are made of, and the state's windows, empty where they are due."""
    taken = {name: state[name] for name in ("step", "table", "window")}
    taken = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, replicated(mesh)), taken)
    emptied = {
        name: jax.lax.with_sharding_constraint(
            jnp.where(due[:, None], 0, sums), slots_sharded(mesh, len(due))
        )
        for name, sums in state["window"].items()
    }
    return taken, emptied


def _cut(path: epath.Path, step: int) -> None:
    """Removes the lines beyond `step`, and any partial line that a crash left."""
    if not path.exists():
        return
    with reporting(f"can't read {path} to continue it", path):
        lines = path.read_bytes().splitlines()
    kept = []
    for text in lines:
        try:
            if json.loads(text)["step"] <= step:
                kept.append(text + b"\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_whole(path, b"".join(kept))
