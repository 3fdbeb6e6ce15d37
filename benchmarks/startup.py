# SPDX-License-Identifier: Apache-2.0
"""Seconds of whole processes: `--help` of each command, `python -m mrti_jax.train` until its first
update is done and saved, and `python -m mrti_jax.sample` until its first picture is written; both
with an empty compilation cache, and with what that run left in it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.report import Report

TARGETS = {"cold": 25.0, "warm": 10.0}
HELP_TARGET = 1.0
COMMANDS = ("train", "sample", "plan")


@dataclass(frozen=True, kw_only=True)
class Flags:
    runs: int = 3
    """Cold runs, each with a cache folder of its own and a warm run after it."""
    prompt: str = "a photo of a red circle"
    """What is drawn."""
    model: str = "mini"
    """A diffusers folder, or the embedded model."""
    steps: int | None = None
    """Sampling steps; the command's own if not given."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Starts the processes and reports."""
    report = Report("Seconds of whole processes")
    load = os.getloadavg()[0]
    report.line(f"load before: {load:.1f} (1 minute; what else runs here counts against the times)")
    rows = []
    for command in COMMANDS:
        times = [seconds_of([command, "--help"], os.environ) for _ in range(flags.runs)]
        rows.append(row(f"{command} --help", times, HELP_TARGET))
    for command in ("train", "sample"):
        taken: dict[str, list[float]] = {kind: [] for kind in TARGETS}
        for _ in range(flags.runs):
            with tempfile.TemporaryDirectory() as folder:
                environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
                for kind in TARGETS:
                    arguments = arguments_of(command, flags, Path(folder) / kind)
                    taken[kind].append(seconds_of(arguments, environment))
        for kind, times in taken.items():
            rows.append(row(f"{command}, {kind} compilation cache", times, TARGETS[kind]))
    report.table(("seconds", "median", "target", "each run"), rows)
    report.end(flags.out)


def row(what: str, times: list[float], target: float) -> tuple[str, ...]:
    """A line of the table."""
    each = ", ".join(f"{t:.1f}" for t in times)
    return what, f"{statistics.median(times):.1f}", f"{target:.0f}", each


def arguments_of(command: str, flags: Flags, out: Path) -> list[str]:
    """One update without pictures, or one picture."""
    if command == "train":
        once = ["--train.steps", "1", "--optimizer.warmup-steps", "0", "--train.no-final-grid"]
        return ["train", "--model.path", flags.model, "--out", str(out), *once]
    steps = [] if flags.steps is None else ["--steps", str(flags.steps)]
    return ["sample", flags.prompt, "--model", flags.model, "--out", str(out), *steps]


def seconds_of(arguments: list[str], environment: "os._Environ[str] | dict[str, str]") -> float:
    """How long a command of the package takes."""
    command = [sys.executable, "-m", f"mrti_jax.{arguments[0]}", *arguments[1:]]
    start = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    taken = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return taken


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
