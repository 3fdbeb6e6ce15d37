# SPDX-License-Identifier: Apache-2.0
"""Seconds until `python -m mrti_jax.sample` has written its first picture and ended, as a whole
process on the embedded model: with an empty compilation cache, and with what that run left in it.
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
    report = Report("Seconds of `python -m mrti_jax.sample`, one picture, the whole process")
    load = os.getloadavg()[0]
    report.line(f"load before: {load:.1f} (1 minute; what else runs here counts against the times)")
    seconds: dict[str, list[float]] = {kind: [] for kind in TARGETS}
    for _ in range(flags.runs):
        with tempfile.TemporaryDirectory() as folder:
            for kind in TARGETS:
                seconds[kind].append(time_once(flags, Path(folder), kind))
    rows = [
        (
            f"{kind} compilation cache",
            f"{statistics.median(times):.1f}",
            f"{TARGETS[kind]:.0f}",
            ", ".join(f"{t:.1f}" for t in times),
        )
        for kind, times in seconds.items()
    ]
    report.table(("seconds", "median", "target", "each run"), rows)
    report.end(flags.out)


def time_once(flags: Flags, folder: Path, kind: str) -> float:
    """Seconds of one process that draws into `folder / kind`, with its cache in `folder`."""
    command = [sys.executable, "-m", "mrti_jax.sample", flags.prompt]
    command += ["--model", flags.model, "--out", str(folder / kind)]
    command += [] if flags.steps is None else ["--steps", str(flags.steps)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    start = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    taken = time.monotonic() - start
    if done.returncode or not list((folder / kind).glob("*.png")):
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return taken


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
