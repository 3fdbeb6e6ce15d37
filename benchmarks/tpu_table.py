# SPDX-License-Identifier: Apache-2.0
"""The train step and the sampler compiled for TPU slices by the TPU's own compiler, without a TPU:
what each chip computes, moves, holds and gets from others. A table in Markdown.

Each program is compiled in a process of its own, which takes ten minutes of a core or more; results
are kept in the folder `--cache`, by the commit that they are of, so that an interrupted run of the
same commit resumes (not one of code that was changed since). FLOP are those of the traced program
with attention in plain XLA; the rest is of the program that would run. A train step's figures are
for one update, a sampler's for one batch of pictures, 50 steps with guidance. An asterisk marks
where the step recomputes blocks, or pictures are decoded one by one, to save memory.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.report import Report

Model = Literal["sd15", "sd21", "sdxl"]
Program = Literal["train", "sample"]
Case = tuple[Model, Program, str, int]

# Chip and number of chips by the name of a slice: v4's and v5p's count two cores of each chip.
SLICES = {
    "v5e-1": ("v5e", 1),
    "v5e-8": ("v5e", 8),
    "v5e-256": ("v5e", 256),
    "v4-8": ("v4", 4),
    "v5p-8": ("v5p", 4),
    "v6e-8": ("v6e", 8),
}
NUM_STEPS = 50
GIB = 2**30
HEADER = (
    "model",
    "program",
    "slice",
    "batch per chip",
    "TFLOP",
    "memory traffic, GB",
    "with on-chip memory, GB",
    "memory, GiB",
    "of GiB",
    "from other chips, kB",
    "least time, ms",
)


CASES: list[Case] = [
    *(("sd15", "train", "v5e-1", per_chip) for per_chip in (1, 8, 16)),
    *(("sd15", "train", name, 1) for name in SLICES if name != "v5e-1"),
    *(("sd15", "sample", name, 1) for name in SLICES),
    ("sdxl", "train", "v5e-1", 1),
]


@dataclass(frozen=True, kw_only=True)
class Flags:
    first: int | None = None
    """How many rows; all if not given."""
    cache: str = "runs/tpu_table"
    """Folder in which the result of each compilation is kept."""
    readme: str | None = None
    """A text file whose table, between the two comments about it, is replaced by this one."""
    out: str | None = None
    """File for the report."""
    measure: Case | None = None
    """For the processes that this one starts: model, program, slice, batch per chip."""


def main(flags: Flags) -> None:
    """Compiles what is not known yet, and reports."""
    if flags.measure is not None:
        print(json.dumps(measured(*flags.measure)))
        return
    report = Report("Programs compiled for TPU slices; figures per chip")
    if flags.readme is not None and flags.first is not None:
        raise SystemExit("--readme takes the whole table: leave out --first")
    report.line(f"commit: {commit()}")
    report.line()
    lines = [line(HEADER), line([":-"] * 3 + ["-:"] * (len(HEADER) - 3))]
    for text in lines:
        report.line(text)
    for case in CASES[: flags.first]:
        lines.append(line(row(case, kept(case, flags.cache))))
        report.line(lines[-1])
    if flags.readme is not None:
        replace_table(Path(flags.readme), lines)
    report.end(flags.out)


def line(cells: tuple[str, ...] | list[str]) -> str:
    """A row in Markdown."""
    return f"| {' | '.join(cells)} |"


def row(case: Case, result: dict[str, float]) -> tuple[str, ...]:
    """A program's figures."""
    from mrti_jax.planning.chips import CHIPS

    model, program, name, per_chip = case
    first = (model, program, name, str(per_chip))
    memory = f"{CHIPS[SLICES[name][0]].memory / GIB:.2f}"
    if "needed" in result:
        return *first, "", "", "", f"{result['needed'] / GIB:.2f}: too much", memory, "", ""
    held = (result["arguments"] + result["temporaries"]) / GIB
    star = "\\*" if result["saves_memory"] else ""
    return (
        *first,
        f"{result['flops'] / 1e12:.2f}",
        f"{result['traffic'] / 1e9:.1f}",
        f"{result['bytes_accessed'] / 1e9:.1f}",
        f"{held:.2f}{star}",
        memory,
        f"{result['bytes_between'] / 1e3:.1f}",
        f"{result['seconds'] * 1e3:.0f}",
    )


def result_file(case: Case, cache: str) -> Path:
    """Where the result of a compilation is kept."""
    return Path(cache) / commit() / f"{'_'.join(map(str, case))}.json"


def commit() -> str:
    """The commit of this code, and whether it was changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def kept(case: Case, cache: str) -> dict[str, float]:
    """What an earlier run has measured, else `measured` in a process of its own."""
    arguments, path = list(map(str, case)), result_file(case, cache)
    if not path.exists() or commit().endswith("-dirty"):
        command = [sys.executable, "-m", "benchmarks.tpu_table", "--measure", *arguments]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(done.stdout.splitlines()[-1])
    return json.loads(path.read_text())


def measured(model: Model, program: Program, name: str, per_chip: int) -> dict[str, float]:
    """The plan of a program, or the bytes that it would need if it does not fit."""
    from mrti_jax.planning.plan import Target, plan_sampling, plan_training
    from mrti_jax.planning.tpu_compiler import DoesNotFit
    from mrti_jax.training.config import Config, TrainConfig

    chip, chips = SLICES[name]
    target = Target(model, chip, chips, "bfloat16", "auto")
    batch_size = chips * per_chip
    try:
        if program == "train":
            config = Config(train=TrainConfig(batch_size=batch_size))
            return dataclasses.asdict(plan_training(target, config, None))
        return dataclasses.asdict(plan_sampling(target, None, batch_size, NUM_STEPS))
    except DoesNotFit as error:
        return {"needed": error.needed}


def replace_table(path: Path, lines: list[str]) -> None:
    """Puts the table between the comments `<!-- tpu_table -->` and `<!-- /tpu_table -->`."""
    text = path.read_text(encoding="utf-8")
    table = "\n".join(lines)
    marked = re.compile(r"(<!-- tpu_table -->\n).*?(<!-- /tpu_table -->)", re.DOTALL)
    new, count = marked.subn(lambda match: f"{match[1]}{table}\n{match[2]}", text)
    if count != 1:
        raise SystemExit(f"{path} has no place for the table")
    path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
