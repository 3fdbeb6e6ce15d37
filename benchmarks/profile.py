# SPDX-License-Identifier: Apache-2.0
"""Where the time of an update or of a batch of pictures goes on a GPU: its kernels, by kinds.

The trace of JAX's profiler stays in a folder, to be opened in XProf or Perfetto.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import tyro

from benchmarks import ours
from benchmarks.processes import Work
from benchmarks.random_model import model_folder
from benchmarks.report import Report

KINDS = {
    "attention": r"attention|fmha|flash|sdpa|dq_to_16bits|dot_do_o",
    "convolutions": r"conv(?!ert)|fprop|dgrad",
    "products of matrices": r"gemm|cublas|cutlass|nvjet|dot|splitk",
    "copies": r"memcpy|memset|copy|transpose",
    "sums (norms, losses)": r"reduce",
    "all else, element by element": r"",
}


@dataclass(frozen=True, kw_only=True)
class Flags:
    model: str | None = None
    """A diffusers folder; Stable Diffusion 1.5 with random weights if not given."""
    program: Literal["train", "sample"] = "train"
    """What is traced: an update, or a batch of pictures."""
    size: int = 512
    """Height and width in pixels."""
    batch_size: int = 8
    """Examples of an update, or pictures at once."""
    sampling_steps: int = 50
    """Sampling steps."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen weights."""
    longest: int = 20
    """Kernels that are listed."""
    trace: str = "runs/trace"
    """Folder for the trace."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Traces and reports."""
    if jax.default_backend() != "gpu":
        raise SystemExit("JAX runs on no GPU here (JAX_PLATFORMS=cuda)")
    report = Report(
        f"Kernels of {'an update' if flags.program == 'train' else 'a batch of pictures'}, "
        f"{flags.size} px, batch {flags.batch_size}, {flags.dtype}"
    )
    with model_folder(flags.model) as folder:
        work = Work(
            folder=folder,
            program=flags.program,
            size=flags.size,
            batch_size=flags.batch_size,
            steps=1 if flags.program == "train" else flags.sampling_steps,
            dtype=flags.dtype,
        )
        measure = ours.train(work) if flags.program == "train" else ours.sample(work)
        measure()
        with jax.profiler.trace(flags.trace):
            wall, _ = measure()
    kernels: dict[str, list[float]] = defaultdict(list)
    for name, duration in _kernels(Path(flags.trace)):
        kernels[name].append(duration)
    busy = sum(map(sum, kernels.values()))
    report.line(f"wall time {1e3 * wall:.1f} ms, of which kernels {1e3 * busy:.1f} ms")

    kinds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for name, seconds in kernels.items():
        kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower()))
        kinds[kind] += seconds
    _table(report, "kind", kinds, busy)
    alike: dict[str, list[float]] = defaultdict(list)
    for name, seconds in kernels.items():
        alike[re.sub(r"[._]\d+\b", "", name)[:100]] += seconds
    longest = sorted(alike, key=lambda name: -sum(alike[name]))[: flags.longest]
    _table(report, "operation and kernel", {name: alike[name] for name in longest}, busy)
    report.end(flags.out)


def _table(report: Report, title: str, times: dict[str, list[float]], busy: float) -> None:
    rows = [
        (name, f"{len(all)}", f"{1e3 * sum(all):.2f}", f"{100 * sum(all) / busy:.1f} %")
        for name, all in times.items()
    ]
    report.table((title, "launches", "ms", "share"), rows)


def _kernels(folder: Path) -> Iterator[tuple[str, float]]:
    """The operation and the kernel's name, and the seconds, of each launch on the accelerator."""
    latest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    for plane in jax.profiler.ProfileData.from_file(str(latest)).planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of JAX's own binding
                    operation = dict(event.stats).get("hlo_op", "")
                yield f"{operation} {event.name}".strip(), event.duration_ns / 1e9


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
