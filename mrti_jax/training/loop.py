# SPDX-License-Identifier: Apache-2.0
"""The training loop: concepts in slots, updates, metrics, checkpoints, pictures."""

import collections
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32
from tqdm import tqdm

from mrti_jax.concept import Concept
from mrti_jax.errors import UserError, warn
from mrti_jax.parallel.compiler import compile_ahead
from mrti_jax.parallel.mesh import fetch
from mrti_jax.parallel.preemption import Stopped, StopRequest, stop_requests
from mrti_jax.parallel.processes import failing_together
from mrti_jax.training.config import TrainConfig
from mrti_jax.training.metrics import Recorder
from mrti_jax.training.run import Run
from mrti_jax.training.slots import fill, put, take
from mrti_jax.training.step import State, TrainStep

Result: TypeAlias = Concept | UserError

# Updates that the host may launch before they are done: enough to keep the devices busy, and few
# enough that a stop finds them done at once.
AHEAD = 2
# Seconds between the states of the bar in a file.
_IN_LOGS = 10
# What a user who presses Ctrl-C is told.
SAVING = "stopping once the work so far is saved; Ctrl-C again stops at once, without saving"
ENDING = "stopping after this step"


def train(
    train_step: TrainStep,
    frozen: dict[str, Any],
    runs: Sequence[Run],
    num_slots: int,
    mesh: Mesh,
    config: TrainConfig,
    *,
    restart: bool,
    progress: bool,
) -> list[Result]:
    """Trains all concepts, `num_slots` of them at a time; returns each one's concept or error.

    SIGTERM and SIGINT end it after a last checkpoint, as Preempted and KeyboardInterrupt; the same
    runs resume from there. At each checkpoint, the metrics up to it are on disk, and the concept
    file is written. An update that is not finite ends the concept's run, with the last good table
    written; so does a folder in which it can't resume or write.
    """
    total = len(runs) * config.steps
    bar = tqdm(
        desc=_title(runs),
        total=total,
        unit="step",
        disable=not progress,
        file=sys.stderr,
        mininterval=0.1 if sys.stderr.isatty() else _IN_LOGS,
    )
    answer = SAVING if _keeps(runs) else ENDING
    with bar, stop_requests(answer) as stop, contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(run)
        loop = _Loop(runs, num_slots, mesh, config, stop, bar)
        try:
            if restart:
                loop.start_over()
            while loop.admit():
                loop.update(train_step, frozen)
                loop.record()
                loop.save()
                loop.draw()
                loop.release(progress=progress and len(runs) == 1)
        except Stopped:
            loop.leave()
    return [loop.results[run] for run in runs]


def _keeps(runs: Sequence[Run]) -> bool:
    """Whether anything of the runs is written."""
    return any(run.has_folder for run in runs)


def _title(runs: Sequence[Run]) -> str:
    return f"<{runs[0].name}>" if len(runs) == 1 else f"{len(runs)} concepts"


class _Loop:
    """Which concept is in which slot, and how far all of them are."""

    def __init__(
        self,
        runs: Sequence[Run],
        num_slots: int,
        mesh: Mesh,
        config: TrainConfig,
        stop: StopRequest,
        bar: Any,
    ):
        self.results: dict[Run, Result] = {}
        self._runs = runs
        self._waiting = collections.deque(runs)
        self._active: dict[int, Run] = {}
        self._fresh: list[Run] = []
        self._num_slots = num_slots
        self._mesh = mesh
        self._config = config
        self._stop = stop
        self._bar = bar
        self._recorder = Recorder(mesh)
        self._extent = tuple(map(max, zip(*(run.extent for run in runs), strict=True)))
        self._state: Any = None
        self._data: Any = None
        self._launched: collections.deque[jax.Array] = collections.deque()
        self._done = 0  # of all concepts
        self._updates = 0

    def start_over(self) -> None:
        """Keeps what is in all the folders under other names, before any concept is trained: a stop
        later on leaves nothing to be moved."""
        for run in self._runs:
            try:
                run.start_over()
            except UserError as error:
                self._waiting.remove(run)
                self._fail(run, error)

    def admit(self) -> bool:
        """Gives free slots to waiting concepts; returns whether there are any to train."""
        for slot in range(self._num_slots):
            while slot not in self._active and self._waiting:
                self._begin(slot, self._waiting.popleft())
        return bool(self._active)

    def update(self, train_step: TrainStep, frozen: dict[str, Any]) -> None:
        """One update of all slots."""
        if self._updates == 0:
            with self._busy("compiling"):
                arguments = self._state, frozen, self._data, self._rates()
                compile_ahead(train_step, *arguments, heed_stop=self._leave_at_once)
        self._state = train_step(self._state, frozen, self._data, self._rates())
        self._updates += 1
        # A copy: the state itself is donated to the next update.
        self._launched.append(jnp.copy(self._state["step"]))
        on_cpus = self._mesh.devices.flat[0].platform == "cpu"  # these gain nothing from it
        ahead = 0 if self._fresh or on_cpus else AHEAD
        while len(self._launched) > ahead:
            jax.block_until_ready(self._launched.popleft())
        for run in self._active.values():
            run.done += 1
        self._count(len(self._active))
        for run in self._fresh:
            run.metrics.start_clock(run.done)
        self._fresh = []

    def _rates(self) -> Float32[np.ndarray, " slots"]:
        """The learning rate of each slot."""
        rates = np.zeros(self._num_slots, np.float32)
        for slot, run in self._active.items():
            rates[slot] = run.rate
        return rates

    def record(self) -> None:
        """Takes and writes the metrics that are due."""
        due = {
            slot: (run.metrics, run.done)
            for slot, run in self._active.items()
            if run.done % self._config.metrics_every == 0 or run.is_last
        }
        if not due:
            return
        self._state = self._recorder.record(self._state, due)
        if any(run.is_last for run in self._active.values()):
            self._recorder.flush()
        losses = [run.metrics.loss for run in self._active.values()]
        known = [loss for loss in losses if np.isfinite(loss)]
        if known:
            self._bar.set_postfix_str(f"loss {np.mean(known):.4f}", refresh=False)

    def save(self) -> None:
        """Writes the checkpoints that are due, and ends runs whose last update was not finite.

        Raises Stopped if there is more to do and a stop was requested.
        """
        due = [
            slot
            for slot, run in self._active.items()
            if run.done % self._config.checkpoint_every == 0 or run.is_last
        ]
        self._save(due)
        going_on = self._waiting or not all(run.is_last for run in self._active.values())
        if self._stop.reached() and going_on:
            raise Stopped

    def leave(self) -> NoReturn:
        """Saves what is not saved yet, and raises what the request to stop asks for."""
        self._save([slot for slot, run in self._active.items() if run.saved < run.done])
        for slot, run in list(self._active.items()):
            with self._failing_alone(slot):
                run.close()
        for result in self.results.values():
            if isinstance(result, UserError) and len(self._runs) == 1:
                raise result  # not all that was done is saved
        total = len(self._runs) * self._config.steps
        kept = "run the same command again, without --restart, to continue"
        lost = "nothing is kept, since the run has no folder (out)"
        self._stop.leave(
            f"stopped after {self._done} of {total} steps; {kept if _keeps(self._runs) else lost}"
        )

    def _leave_at_once(self) -> None:
        """Leaves, if asked to, before the first update."""
        if self._stop.asked_alone:
            self.leave()

    def _save(self, saving: Sequence[int]) -> None:
        # A state stays as it was before an update that is not finite. Checking it at every step
        # would make the devices wait.
        updates = fetch(self._state["step"]) if saving else np.zeros(0)
        for slot, run in list(self._active.items()):
            if run.metrics.stuck or (slot in saving and updates[slot] < run.done):
                with self._failing_alone(slot):
                    raise run.fail(self._take(slot))
        if saving:
            self._recorder.flush()
        for slot in saving:
            if slot in self._active:
                with self._failing_alone(slot):
                    self._active[slot].save(self._take(slot))

    def draw(self) -> None:
        """Draws with the concepts so far, if it is due."""
        for slot, run in list(self._active.items()):
            if run.draws_now:
                self._draw(slot)

    def release(self, *, progress: bool) -> None:
        """Ends the runs that are done, and frees their slots."""
        for slot, run in list(self._active.items()):
            if run.is_last:
                state = self._take(slot)
                if progress:
                    self._bar.close()  # drawing has a bar of its own
                doing = f"drawing <{run.name}>" if run.config.train.final_grid else "saving"
                with self._busy(doing), self._failing_alone(slot):
                    self.results[run] = run.finish(state, self._stop.heed, progress=progress)
                self._active.pop(slot, None)

    def _begin(self, slot: int, run: Run) -> None:
        try:
            state = run.resume()
            self._count(run.done)
            if run.is_last:
                self.results[run] = run.finish_again(state, self._stop.heed)
                return
            data = run.data(*self._extent)
            if run.done and not self._bar.disable:
                told = f"<{run.name}> resumes after {run.done} of {self._config.steps} updates"
                self._bar.write(told, file=sys.stderr)
        except UserError as error:
            self._fail(run, error)
            return
        if self._state is None:  # the other slots stay idle
            idle = state | {"step": np.int32(self._config.steps)}
            self._state = fill(idle, self._num_slots, self._mesh)
            self._data = fill(data, self._num_slots, self._mesh)
        self._state = put(self._state, slot, state, self._mesh)
        self._data = put(self._data, slot, data, self._mesh)
        self._active[slot] = run
        self._fresh.append(run)
        if run.draws_now and not run.has_drawn:  # a stop had interrupted them
            self._draw(slot)

    def _draw(self, slot: int) -> None:
        run = self._active[slot]
        with self._busy(f"drawing <{run.name}>"), self._failing_alone(slot):
            run.draw(self._take(slot), self._stop.heed)

    @contextlib.contextmanager
    def _busy(self, doing: str) -> Iterator[None]:
        """The bar says what is being done; its time counts neither there nor in the metrics."""
        self._recorder.flush()
        self._bar.set_description_str(doing, refresh=not self._bar.disable)
        yield
        self._bar.set_description(_title(self._runs), refresh=False)
        self._bar.unpause()
        for run in self._active.values():
            run.metrics.start_clock(run.done)

    @contextlib.contextmanager
    def _failing_alone(self, slot: int) -> Iterator[None]:
        """A UserError within it ends the run in that slot, and no other."""
        try:
            with failing_together():
                yield
        except UserError as error:
            self._fail(self._active.pop(slot), error)

    def _fail(self, run: Run, error: UserError) -> None:
        """Ends one run only, with a warning."""
        # What goes wrong with its files now is only a warning.
        run.__exit__(type(error), error, error.__traceback__)
        if len(self._runs) > 1:
            error = UserError(f"<{run.name}>: {error}")
            others = len(self.results) + 1 < len(self._runs)
            warn(f"{error}; the other concepts continue" if others else str(error))
        self.results[run] = error

    def _take(self, slot: int) -> State:
        return take(self._state, slot, self._mesh)

    def _count(self, steps: int) -> None:
        self._done += steps
        self._bar.update(steps)
