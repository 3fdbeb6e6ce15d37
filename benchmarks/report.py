# SPDX-License-Identifier: Apache-2.0
"""What a measurement prints: the machine, how to run it again, tables."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np


class Report:
    """Prints lines as they come, and keeps them for a file."""

    def __init__(self, title: str) -> None:
        self._lines: list[str] = []
        self._start = time.monotonic()
        self.line(title)
        self.line(f"machine: {machine()}")
        self.line(f"run it again: {again()}")

    def line(self, text: str = "") -> None:
        """One line, printed at once."""
        print(text, flush=True)
        self._lines.append(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table after an empty line: the first column on the left, the others on the right."""
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        self.line()
        for row in [header, ["-" * width for width in widths], *rows]:
            first, *rest = (
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            self.line("  ".join([first, *rest]).rstrip())

    def end(self, out: str | None) -> None:
        """The time taken; writes everything to the file `out`, if given."""
        self.line()
        self.line(f"took {time.monotonic() - self._start:.0f} s")
        if out is not None:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            Path(out).write_text("\n".join(self._lines) + "\n", encoding="utf-8")


def machine() -> str:
    """Processor, cores, accelerator if any, and versions."""
    cores = len(os.sched_getaffinity(0))
    parts = [_processor(), f"{cores} core{'s' if cores > 1 else ''}"]
    devices = jax.devices()
    if devices[0].platform != "cpu":
        parts.append(f"{len(devices)} x {devices[0].device_kind}")
    return ", ".join([*parts, f"Python {platform.python_version()}", f"jax {jax.__version__}"])


def again() -> str:
    """The command that this process was started by."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def mean_and_error(values: Sequence[float] | np.ndarray) -> str:
    """`mean +- standard error`, of independent values."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return f"{array.mean():.1f}"
    return f"{array.mean():.1f} +- {array.std(ddof=1) / np.sqrt(len(array)):.1f}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
