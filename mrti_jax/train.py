# SPDX-License-Identifier: Apache-2.0
"""The command `python -m mrti_jax.train`: learns concepts from photos."""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import tyro

from mrti_jax.commands import ProcessFlags, join_processes, run_command, use_compilation_cache
from mrti_jax.errors import UserError
from mrti_jax.files import to_path
from mrti_jax.flags import named, read_flags
from mrti_jax.models.source import MINI
from mrti_jax.training.config import Config, ListedConcept, check, read_config
from mrti_jax.training.many import resolve_all

PROG = "python -m mrti_jax.train"
DESCRIPTION = f"""Learns a word for what a few photos show.

Without arguments: the sample concept, on the embedded model, which knows only a small world of its
own. Photos of real things need a real model, as in the recipe for Stable Diffusion 1.5; the second
command learns a word for each folder of photos in a folder:
  {PROG} configs/sd15.yaml --data.path photos --concept.name rex --concept.initializer dog
  {PROG} configs/sd15.yaml --data.path folders --concept.initializer dog"""
LESS_MEMORY = (
    "try --train.remat blocks, a larger --train.accumulation, a smaller --train.at-once (of many "
    "concepts), --train.batch-size or --data.size, or --model.dtype bfloat16; if it was drawing, "
    "leave out the pictures: --train.picture-every 0, --train.no-final-grid"
)


@dataclass(frozen=True, kw_only=True)
class Flags(Config):
    """A recipe and what overrides it."""

    # A list belongs in a file.
    concepts: tyro.conf.Suppress[tuple[ListedConcept, ...]] = ()
    restart: bool = False
    """Start over; the run that is in the folder is kept under another name."""
    recipe: tyro.conf.Positional[Annotated[str | None, named("[RECIPE]")]] = None
    """A YAML file of settings, such as configs/sd15.yaml; flags override it. The defaults here are
    those without one."""
    processes: tyro.conf.OmitArgPrefixes[ProcessFlags] = field(default_factory=ProcessFlags)
    """On several machines: how this process finds the others of its run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)

    def body(flags: Flags) -> None:
        use_compilation_cache()
        # Before any file is read: what only one process can't read must not leave others waiting.
        join_processes(flags.processes, stop_together=True)
        from mrti_jax.parallel.processes import failing_together

        with failing_together():
            recipe = Config() if flags.recipe is None else read_config(flags.recipe)
            defaults = Flags(**_values(recipe), recipe=flags.recipe)
            # Again, now that the defaults are known: what was not given is the recipe's.
            config = Config(**_values(read_flags(Flags, arguments, default=defaults)))
            check(config)
            runs = resolve_all(config)
        _run(config, runs, flags.restart)

    return run_command(
        Flags, body, arguments, prog=PROG, description=DESCRIPTION, less_memory=LESS_MEMORY
    )


def _values(config: Config) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(Config)}


def _run(config: Config, runs: Sequence[Config], restart: bool) -> None:
    # Orbax also logs the tracebacks of what it raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    from mrti_jax.models.stable_diffusion import StableDiffusion
    from mrti_jax.parallel.banner import describe
    from mrti_jax.parallel.mesh import make_mesh
    from mrti_jax.parallel.notice import heed_notice
    from mrti_jax.parallel.processes import failing_together, is_writer
    from mrti_jax.training.learning import check_subjects, learn_many, plan_slots
    from mrti_jax.training.slots import examples_on_each
    from mrti_jax.training.subject import Subject

    heed_notice()
    dtype = None if config.model.dtype == "auto" else config.model.dtype
    mesh = None if config.model.fsdp is None else make_mesh(fsdp=config.model.fsdp)
    subjects = [
        Subject(
            images=run.data.path,
            name=run.concept.name or "",
            initializer=run.concept.initializer or "",
            learnable_property=run.data.learnable_property,
            captions=run.data.captions,
            out=run.out,
        )
        for run in runs
    ]
    check_subjects(subjects, restart=restart)  # before a model is fetched and loaded for them
    with failing_together():
        sd = StableDiffusion.load(
            config.model.path,
            **config.model.options,
            dtype=dtype,
            mesh=mesh,
            attention=config.model.attention,
        )
    slots = plan_slots(sd, config, len(runs))
    each = examples_on_each(config.train.microbatch_size, slots, sd.mesh.size)
    if is_writer():
        print(
            describe(sd.source.name, sd.mesh, sd.dtype, slots * config.train.microbatch_size, each)
        )
    results = learn_many(sd, subjects, config=config, restart=restart, progress=is_writer())
    failures = [str(result) for result in results if isinstance(result, UserError)]
    if is_writer():
        for run, result in zip(runs, results, strict=True):
            if not isinstance(result, UserError):
                _tell(run)
    if len(failures) == 1:
        raise UserError(failures[0])
    if failures:
        raise UserError(
            f"{len(failures)} of {len(runs)} concepts were not learned, see the warnings above"
        )


def _tell(run: Config) -> None:
    """Prints where the results are and how to draw them."""
    from mrti_jax.training.pictures import PROMPTS

    name, out = run.concept.name, run.out
    assert name and out  # resolve_all has seen to that
    folder = to_path(out)
    print(f"learned <{name}>: {folder / 'concept.safetensors'}")
    if run.train.final_grid:
        print(f"at all resolutions: {folder / 'grid.png'}")
    model = {} if run.model.path == MINI else {"model": run.model.path}
    flags = {"concept": out} | model | run.model.options
    given = [
        f"--{key.replace('_', '-')} {shlex.quote(str(value))}"
        for key, value in flags.items()
        if value
    ]
    prompt = PROMPTS[run.data.learnable_property].format(f"<{name}>")
    print(f'draw it: python -m mrti_jax.sample "{prompt}" {" ".join(given)}')


if __name__ == "__main__":
    sys.exit(main())
