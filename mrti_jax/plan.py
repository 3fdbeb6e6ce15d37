# SPDX-License-Identifier: Apache-2.0
"""The command `python -m mrti_jax.plan`: what a train step or pictures cost on TPUs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mrti_jax.commands import run_command
from mrti_jax.errors import UserError

PROG = "python -m mrti_jax.plan"
DESCRIPTION = """Compiles a train step or the sampling program for TPUs, without a TPU and without
the model's weights, and prints what it computes, moves and holds on each chip, the minimum time
that this takes, and whether it fits; if not, the exit status is 2."""
GIB = 2**30
SAVINGS = {
    "train": "the gradient recomputes blocks",
    "sample": "each chip decodes its pictures one by one",
}
LESS_MEMORY = {
    "train": "use a smaller --batch-size or --size, --accumulation, or more --chips",
    "sample": "use a smaller --batch-size or --size, or more --chips",
}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to compile, and for which chips."""

    program: Literal["train", "sample"] = "train"
    """A train step, or drawing pictures: guidance, all steps, decoding."""
    model: str = "sd15"
    """sd15, sd21 or sdxl."""
    size: int | None = None
    """Height and width in pixels; the model's own if not given."""
    batch_size: int = 4
    """Examples or pictures at once, over all chips."""
    chip: str = "v5e"
    """TPU: v4, v5e, v5p or v6e."""
    chips: int = 1
    """How many chips."""
    steps: int | None = None
    """Sampling steps; 50 if not given."""
    attention: Literal["auto", "xla", "chunked", "splash"] = "auto"
    """How attention is computed; auto is splash on TPUs."""
    accumulation: int | None = None
    """Parts in which the batch of a train step is processed, one after the other; 1 if not given.
    """
    remat: Literal["auto", "none", "blocks"] | None = None
    """What the train step's gradient recomputes to save memory; auto if not given."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of weights and activations."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(Flags, _run, argv, prog=PROG, description=DESCRIPTION)


def _run(flags: Flags) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is run
    from mrti_jax.planning.chips import CHIPS
    from mrti_jax.planning.plan import Target, plan_sampling, plan_training
    from mrti_jax.planning.tpu_compiler import DoesNotFit
    from mrti_jax.training.config import Config, TrainConfig

    other = ("steps",) if flags.program == "train" else ("accumulation", "remat")
    for name in other:
        if getattr(flags, name) is not None:
            raise UserError(f"--{name} does not apply to --program {flags.program}: leave it out")
    target = Target(flags.model, flags.chip, flags.chips, flags.dtype, flags.attention)
    try:
        if flags.program == "train":
            settings = TrainConfig(
                batch_size=flags.batch_size,
                accumulation=1 if flags.accumulation is None else flags.accumulation,
                remat=flags.remat or "auto",
            )
            plan = plan_training(target, Config(train=settings), flags.size)
        else:
            plan = plan_sampling(
                target, flags.size, flags.batch_size, 50 if flags.steps is None else flags.steps
            )
    except DoesNotFit as error:
        memory = CHIPS[flags.chip].memory
        raise UserError(
            f"does not fit: {error} on each chip, which has {memory / GIB:.2f} GiB for it; "
            f"{LESS_MEMORY[flags.program]}"
        ) from None
    chip, parts = CHIPS[flags.chip], flags.accumulation or 1
    share = parts * -(-flags.batch_size // (parts * flags.chips))
    one = "example" if flags.program == "train" else "picture"
    held = plan.arguments + plan.temporaries
    print(
        f"{'on each chip':24}{'in all':>12}{'per ' + one:>14}\n"
        f"{'arithmetic, TFLOP':24}{plan.flops / 1e12:12.3f}{plan.flops / 1e12 / share:14.3f}\n"
        f"{'memory traffic, GB':24}{plan.traffic / 1e9:12.1f}{plan.traffic / 1e9 / share:14.1f}\n"
        f"{'... and on the chip, GB':24}{plan.bytes_accessed / 1e9:12.1f}"
        f"{plan.bytes_accessed / 1e9 / share:14.1f}\n"
        f"{'least time, ms':24}{plan.seconds * 1e3:12.1f}{plan.seconds * 1e3 / share:14.1f}\n"
        f"{'weights and data, GiB':24}{plan.arguments / GIB:12.2f}\n"
        f"{'everything else, GiB':24}{plan.temporaries / GIB:12.2f}\n"
        f"{'from other chips, kB':24}{plan.bytes_between / 1e3:12.1f}\n"
        f"fits: {held / GIB:.2f} of {chip.memory / GIB:.2f} GiB"
    )
    if (full := share * flags.chips) != flags.batch_size:
        print(f"a batch of {full} would take as long: with {flags.batch_size}, some chips idle")
    if plan.saves_memory:
        print(f"to save memory, {SAVINGS[flags.program]}")
    if plan.fsdp > 1:
        print(f"one chip can't hold the weights and a batch: {plan.fsdp} share the weights")


if __name__ == "__main__":
    sys.exit(main())
