# SPDX-License-Identifier: Apache-2.0
"""Two sides of a measurement in processes of their own, by turns, and what they took."""

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import Report


@dataclass(frozen=True)
class Side:
    """One side: its name in the table, its module and its flags."""

    name: str
    module: str
    flags: Sequence[str]


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def by_turns(report: Report, sides: Sequence[Side], rounds: int, batch_size: int, one: str) -> None:
    """Runs each side `rounds` times by turns, and prints a table; the first one is compared.

    A side prints JSON: `seconds`, pairs of wall and processor seconds of each batch, and `memory`.
    """
    report.line(f"load before: {os.getloadavg()[0]:.1f} (1 minute; it counts against wall time)")
    results: dict[str, list[dict]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            results[side.name].append(_run(side))
    rows, wall_times = [], []
    for name, runs in results.items():
        pairs = [pair for run in runs for pair in run["seconds"]]
        wall, processor = (
            statistics.median(pair[i] for pair in pairs) / batch_size for i in range(2)
        )
        wall_times.append(wall)
        memory = max(run["memory"] for run in runs) / 2**30
        rows.append((name, f"{wall:.2f}", f"{processor:.2f}", f"{1 / wall:.4f}", f"{memory:.2f}"))
    seconds = f"seconds per {one}"
    report.table(("", seconds, "processor seconds", f"{one}s/s", "peak GiB"), rows)
    report.line()
    for side, wall in zip(sides[1:], wall_times[1:], strict=True):
        report.line(f"{sides[0].name}: {wall / wall_times[0]:.2f} times the speed of {side.name}")


def _run(side: Side) -> dict:
    command = [sys.executable, "-m", side.module, *side.flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
