# SPDX-License-Identifier: Apache-2.0
"""Does a long training keep its memory and its speed?

On a randomly weighted model of toy size, which `tests/tiny.py` makes. Status 1 if the memory grows
by 1 % or more after the first tenth, 2 if the training is too short to tell.
"""

import ctypes
import dataclasses
import json
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tiny import PICTURE_SIZE, save_tiny

from benchmarks.report import Report
from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import Config, learn

MAX_GROWTH = 0.01


@dataclass(frozen=True, kw_only=True)
class Flags:
    steps: int = 20_000
    """Updates of 4 examples."""
    out: str | None = None
    """File for the report."""


def resident_bytes() -> int:
    """What the process has in memory now (Linux), without what glibc keeps of freed memory."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tenths(name: str, values: Sequence[float]) -> tuple[float, float]:
    """The medians of the second and the last tenth. Raises UserError if that is less than one."""
    tenth = len(values) // 10
    if tenth == 0:
        raise UserError(f"{name} was read {len(values)} times, but 10 are needed: use more --steps")
    return float(np.median(values[tenth : 2 * tenth])), float(np.median(values[-tenth:]))


def main(flags: Flags) -> int:
    """Trains, watches, and gives the exit status."""
    report = Report(f"A training of {flags.steps:,} steps on a toy model: memory and speed")
    memory: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(2):
            memory.append(resident_bytes())

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "run"
        sd = StableDiffusion.load(save_tiny(Path(temporary) / "model"))
        rng = np.random.default_rng(0)
        shape = (PICTURE_SIZE, PICTURE_SIZE, 3)
        photos = [rng.integers(0, 256, shape, np.uint8) for _ in range(4)]
        config = Config()
        train = dataclasses.replace(
            config.train, steps=flags.steps, batch_size=4, final_grid=False, checkpoint_every=200
        )
        config = dataclasses.replace(config, train=train)
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            learn(sd, photos, name="jane", initializer="star", out=out, config=config)
        finally:
            stop.set()
            watcher.join()
        lines = (out / "metrics.jsonl").read_bytes().splitlines()
        disk = {"metrics.jsonl": sum(map(len, lines)), "all": folder_bytes(out)}

    speed = [json.loads(line)["examples_per_second"] for line in lines]
    try:
        early, late = tenths("the memory's size", memory)
        first, last = tenths("the speed", speed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    growth = late / early - 1
    report.table(
        ("", "second tenth", "last tenth"),
        [
            ("memory, MiB", f"{early / 2**20:.1f}", f"{late / 2**20:.1f}"),
            ("examples per second", f"{first:.0f}", f"{last:.0f}"),
        ],
    )
    report.line()
    report.line(f"memory grew by {growth:.2%} (target: less than {MAX_GROWTH:.0%})")
    report.line(
        f"on disk: {', '.join(f'{name} {size / 1000:.0f} kB' for name, size in disk.items())}"
    )
    report.end(flags.out)
    return int(growth >= MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Flags, description=__doc__)))
