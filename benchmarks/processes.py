# SPDX-License-Identifier: Apache-2.0
"""The sides of a measurement in processes of their own, measured by turns, and what they took.

All prepare themselves at once (loading, compiling); then they measure one after the other, while
the others wait.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Literal

from benchmarks.report import Report

READY = "ready"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a side is asked to do: the flags of its process."""

    folder: str
    """A diffusers folder."""
    program: Literal["train", "sample"]
    size: int
    """Height and width in pixels."""
    batch_size: int
    """Examples of an update, or pictures at once."""
    steps: int
    """Updates that are timed together, or sampling steps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen weights."""
    best: bool = False
    """For PyTorch: in its best form."""


@dataclass(frozen=True)
class Side:
    """One side: its name in the table, its module and what it is asked."""

    name: str
    module: str
    work: Work

    @property
    def command(self) -> list[str]:
        """Starts its process."""
        given = asdict(self.work)
        best = ["--best"] if given.pop("best") else []
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        return [sys.executable, "-m", self.module, *flags, *best]


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(measure: Callable[[], tuple[float, float]], memory: Callable[[], int]) -> None:
    """In the process of a side that is prepared: measures whenever it is asked to.

    `measure` returns wall and processor seconds of a batch, `memory` the most bytes ever held.
    """
    print(READY, flush=True)
    for _ in sys.stdin:
        wall, processor = measure()
        print(json.dumps({"wall": wall, "processor": processor, "memory": memory()}), flush=True)


def by_turns(report: Report, sides: Sequence[Side], rounds: int, one: str) -> dict[str, float]:
    """Measures each side `rounds` times by turns and prints a table; the first one is compared.

    Returns each one's rate per second. A side that fails has its error in the report instead.
    """
    report.line(f"load before: {os.getloadavg()[0]:.1f} (1 minute; it counts against wall time)")
    processes = [_Process(side) for side in sides]
    runs: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    try:
        for process in processes:
            process.answer(READY)
        for _ in range(rounds):
            for process in processes:
                if (result := process.measure()) is not None:
                    runs[process.side.name].append(result)
    finally:
        errors = {process.side.name: process.stop() for process in processes}
    speeds, rows = {}, []
    for side in sides:
        if errors[side.name] is not None:
            report.line(f"{side.name} failed:\n{errors[side.name]}")
            continue
        wall, processor = (
            statistics.median(run[key] for run in runs[side.name]) / side.work.batch_size
            for key in ("wall", "processor")
        )
        speeds[side.name] = 1 / wall
        memory = max(run["memory"] for run in runs[side.name]) / 2**30
        numbers = f"{1 / wall:.4g}", f"{wall:.4g}", f"{processor:.4g}", f"{memory:.2f}"
        rows.append((side.name, f"{side.work.batch_size}", *numbers))
    seconds = f"seconds per {one}"
    header = ("", "batch", f"{one}s/s", seconds, "processor seconds", "peak GiB")
    report.table(header, rows)
    report.line()
    first = sides[0].name
    for name in [side.name for side in sides[1:]]:
        if first in speeds and name in speeds:
            times = speeds[first] / speeds[name]
            report.line(f"{first}: {times:.2f} times the speed of {name}")
    return speeds


class _Process:
    def __init__(self, side: Side):
        self.side = side
        self._errors: IO[Any] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            side.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},  # they share a GPU
        )

    def answer(self, start: str) -> str | None:
        """The next line that starts with `start`; None if the process ended before."""
        assert self._process.stdout is not None
        found = next((line for line in self._process.stdout if line.startswith(start)), None)
        if found is None:
            self._process.wait()
        return found

    def measure(self) -> dict[str, float] | None:
        """One measurement; None if the process has failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and answers nothing
        line = self.answer("{")
        return None if line is None else json.loads(line)

    def stop(self) -> str | None:
        """Ends the process; what it said last if it had failed, else None."""
        failed = self._process.poll() is not None
        self._process.kill()
        self._process.communicate()
        with self._errors as errors:
            errors.seek(0)
            return errors.read()[-2000:] if failed else None
