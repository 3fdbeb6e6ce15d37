# SPDX-License-Identifier: Apache-2.0
"""The command `python -m mrti_jax.sample`: draws prompts, with concepts at any resolution."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mrti_jax.commands import ProcessFlags, join_processes, run_command, use_compilation_cache
from mrti_jax.errors import UserError, warn
from mrti_jax.files import read_text, reporting, to_path
from mrti_jax.flags import named
from mrti_jax.models.choices import AttentionChoice
from mrti_jax.models.source import MINI, SourceOptions

if TYPE_CHECKING:  # at run time, imported once the flags are read: --help needs no jax
    from mrti_jax.concept import Concept

PROG = "python -m mrti_jax.sample"
DESCRIPTION = """Draws pictures from prompts, in which a learned concept is a word:
  <star>       as it was learned
  <star[0.8]>  only its outlines and colours (fully resolution-dependent)
  <star(0.8)>  semi resolution-dependent: nothing of it once those are settled
  <star|3|>    the row of bucket 3 throughout

A number with a decimal point is a resolution, one without is a bucket."""
EXAMPLE = f'{PROG} "a photo of a red circle"'

# As other tools write what changes the model.
_OTHER_TOOLS = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.I)
DEFAULT_STEPS, DEFAULT_GUIDANCE = 50, 7.5
# More guidance makes the embedded model's colours stronger than a caption says.
MINI_STEPS, MINI_GUIDANCE = 30, 3.0
# At little noise it draws textures with more contrast than the photos have.
MINI_GUIDANCE_INTERVAL = (0.2, 1.0)
LESS_MEMORY = "try a smaller --batch-size or --size, --vae-slicing on, or --dtype bfloat16"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to draw, with which model, and how."""

    prompts: tyro.conf.Positional[Annotated[tuple[str, ...], named("[PROMPT ...]")]] = ()
    """What to draw; each prompt in quotes."""
    prompts_file: str | None = None
    """A text file with a prompt on each line; empty lines and those that begin with # are skipped.
    """
    concept: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A concept file, training folder or checkpoint folder; for several, repeat the flag."""
    model: str = MINI
    """A diffusers folder, a single .safetensors or .ckpt file, a Hub id (owner/model), or 'mini',
    the embedded model."""
    sampler: str | None = None
    """ddim, pndm, euler, euler_karras, euler_ancestral, dpmpp_2m or dpmpp_2m_karras; if not given,
    the model's own or, with a warning, ddim if that is none of these."""
    steps: int | None = None
    """Number of sampling steps; 50 if not given, 30 for the embedded model."""
    guidance: float | None = None
    """Scale of classifier-free guidance, 1 is none; 7.5 if not given, 3 for the embedded model."""
    guidance_rescale: float = 0.0
    """How far to scale guided predictions back to the spread of unguided ones, 0 to 1. Use 0.7 for
    models whose noise schedule ends in pure noise (rescale_betas_zero_snr)."""
    guidance_interval: tuple[float, float] | None = None
    """From and to which diffusion time guidance acts, 0 is no noise and 1 pure noise; 0 1 if not
    given, 0.2 1 for the embedded model."""
    negative_prompt: str = ""
    """What to guide away from."""
    size: int | None = None
    """Height and width in pixels; the model's own if not given."""
    height: int | None = None
    """Height in pixels, if not that of --size."""
    width: int | None = None
    """Width in pixels, if not that of --size."""
    original_size: tuple[int, int] | None = None
    """SDXL only: height and width of the original that the picture should seem to be scaled from;
    its own if not given. Small ones give soft pictures."""
    crop: tuple[int, int] = (0, 0)
    """SDXL only: top and left of the crop that the picture should seem to be; 0 0 centres objects.
    """
    target_size: tuple[int, int] | None = None
    """SDXL only: height and width that it should seem to be cropped to; its own if not given."""
    seed: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = ()
    """Seed of the noise, 0 if not given; for several, repeat the flag."""
    images_per_prompt: int = 1
    """Pictures for each prompt and seed s; their seeds are s, s + 1, ..."""
    eta: float = 0.0
    """DDIM's share of fresh noise, 0 to 1."""
    nothing: Literal["zero", "drop", "initializer"] = "zero"
    """What replaces a word at steps where it has no row, like <star(k)> below k: zero vectors, no
    word, or the word that training started from."""
    official_semi: bool = False
    """<star(k)> as in the code of the paper's authors: without bucket k itself."""
    grid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A prompt with {k} in it, drawn once for each bucket: "a photo of <star[{k}]>"; for several,
    one below the other, repeat the flag."""
    grid_rows: Literal["seeds", "schemes"] = "seeds"
    """What the rows of each --grid are: the seeds, or the three schemes."""
    grid_value: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A bucket or resolution to replace {k}; all buckets if not given; for several, repeat the
    flag."""
    out: str = "pictures"
    """Folder for the PNG files, and a sheet with all of them; nothing in it is overwritten."""
    batch_size: int = 8
    """The most pictures drawn at once; a CPU draws one at a time."""
    vae_slicing: Literal["auto", "on", "off"] = "auto"
    """Whether each device decodes its pictures one by one, to save memory; auto: if the batch is
    estimated not to fit."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of the model; float32 on a CPU and bfloat16 elsewhere if not given."""
    fsdp: int | None = None
    """How many devices share the weights, each holding a part; if not given, as few as can hold
    them, usually 1."""
    attention: AttentionChoice = "auto"
    """How attention is computed; auto: the fastest known way for the devices."""
    source: tyro.conf.OmitArgPrefixes[SourceOptions] = field(default_factory=SourceOptions)
    """More about the model."""
    processes: tyro.conf.OmitArgPrefixes[ProcessFlags] = field(default_factory=ProcessFlags)
    """On several machines: how this process finds the others of its run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(
        Flags, _run, argv, prog=PROG, description=DESCRIPTION, less_memory=LESS_MEMORY
    )


def _run(flags: Flags) -> None:
    _check_flags(flags)
    use_compilation_cache()
    join_processes(flags.processes, stop_together=False)
    from mrti_jax.models.stable_diffusion import StableDiffusion
    from mrti_jax.parallel.banner import describe
    from mrti_jax.parallel.mesh import make_mesh
    from mrti_jax.parallel.processes import failing_together, is_writer
    from mrti_jax.sampling.drawing import draw_prompts, draw_sweep
    from mrti_jax.sampling.generate import pictures_at_once
    from mrti_jax.sampling.png import check_folder

    options = _options(flags)
    with failing_together():
        prompts = [*flags.prompts, *_read_prompts(flags.prompts_file)]
        check_folder(flags.out)
    with failing_together():
        concepts = [_load_concept(path) for path in flags.concept]
        for concept in concepts:
            _warn_if_unfinished(concept)
        _check_prompts(flags, prompts, concepts, options)
    mesh = None if flags.fsdp is None else make_mesh(fsdp=flags.fsdp)
    with failing_together():
        sd = StableDiffusion.load(
            flags.model,
            **flags.source.options,
            dtype=flags.dtype,
            mesh=mesh,
            attention=flags.attention,
        )
    if is_writer():
        pictures = pictures_at_once(sd.mesh, flags.batch_size)
        print(describe(sd.source.name, sd.mesh, sd.dtype, pictures, -(-pictures // sd.mesh.size)))
    if prompts:
        draw_prompts(sd, prompts, concepts, flags.out, **options)
    if flags.grid:
        rows, values = flags.grid_rows, flags.grid_value
        draw_sweep(sd, flags.grid, concepts, flags.out, rows=rows, values=values, **options)


def _check_flags(flags: Flags) -> None:
    """Raises UserError for flags that don't go together."""
    if not flags.prompts and not flags.prompts_file and not flags.grid:
        raise UserError(f"there is no prompt: give one, as in {EXAMPLE}")
    if not flags.grid and (flags.grid_value or flags.grid_rows != "seeds"):
        raise UserError("--grid-value and --grid-rows need a --grid")
    if len(flags.prompts) > 1 and not any(set(prompt) & {" ", "<"} for prompt in flags.prompts):
        warn(f"each of {len(flags.prompts)} words is a prompt: put a prompt of several in quotes")
    for prompt in flags.prompts:  # a second value after a flag that takes one is read as a prompt
        if prompt.isdecimal() and (flags.seed or flags.grid_value):
            raise UserError(
                f"the prompt '{prompt}' is a number: for several seeds or values repeat the flag, "
                f"as in --seed 1 --seed {prompt} (--prompts-file reads prompts)"
            )
        if prompt.endswith(".safetensors") or ("/" in prompt and os.path.exists(prompt)):
            raise UserError(
                f"the prompt '{prompt}' is a file or folder: for several concepts repeat the flag, "
                f"as in --concept FILE --concept {prompt} (--prompts-file reads prompts)"
            )


def _check_prompts(
    flags: Flags, prompts: list[str], concepts: "list[Concept]", options: dict[str, Any]
) -> None:
    """Raises UserError for what can't be drawn, before a model is fetched and loaded for it; warns
    of concepts that no prompt names, and of flags that no word heeds."""
    from mrti_jax.concept import by_name, read_prompt
    from mrti_jax.sampling.request import check_request, expand_seeds
    from mrti_jax.sampling.sweep import default_values, sweep_rows

    table = by_name(concepts)
    values = flags.grid_value or default_values(flags.grid, concepts)
    rows = sweep_rows(flags.grid, flags.grid_rows, values)
    texts = [*prompts, *(prompt for row in rows for prompt in row.prompts), flags.negative_prompt]
    checked = ("num_steps", "guidance_scale", "guidance_rescale", "guidance_interval", "eta")
    check_request(
        texts, table, **{name: options[name] for name in (*checked, "sampler", "batch_size")}
    )
    expand_seeds(options["seeds"], options["images_per_prompt"])
    for text in texts:
        if foreign := _OTHER_TOOLS.search(text):
            warn(f"{foreign[0]} is drawn as text: LoRAs and their like can't be used here")
    words = [word for text in texts for word in read_prompt(text, table).words]
    for name in sorted(table.keys() - {word.name for word in words}):
        warn(f"concept '{name}' is loaded, but no prompt names it: write <{name}> to draw it")
    if not any(word.scheme == "semi" for word in words):
        ignored = {"--nothing": flags.nothing != "zero", "--official-semi": flags.official_semi}
        for flag in (flag for flag, given in ignored.items() if given):
            warn(f"{flag} has no effect: no prompt has a word in round brackets, as in <star(3)>")


def _options(flags: Flags) -> dict[str, Any]:
    is_mini = flags.model == MINI
    steps, guidance, interval = flags.steps, flags.guidance, flags.guidance_interval
    if guidance is None:
        guidance = MINI_GUIDANCE if is_mini else DEFAULT_GUIDANCE
    if interval is None:
        interval = MINI_GUIDANCE_INTERVAL if is_mini and guidance > 1 else (0.0, 1.0)
    return {
        "seeds": flags.seed or (0,),
        "images_per_prompt": flags.images_per_prompt,
        "num_steps": (MINI_STEPS if is_mini else DEFAULT_STEPS) if steps is None else steps,
        "guidance_scale": guidance,
        "guidance_rescale": flags.guidance_rescale,
        "guidance_interval": interval,
        "negative_prompt": flags.negative_prompt,
        "height": flags.size if flags.height is None else flags.height,
        "width": flags.size if flags.width is None else flags.width,
        "original_size": flags.original_size,
        "crop": flags.crop,
        "target_size": flags.target_size,
        "sampler": flags.sampler,
        "eta": flags.eta,
        "nothing": flags.nothing,
        "official_semi": flags.official_semi,
        "batch_size": flags.batch_size,
        "vae_slicing": flags.vae_slicing,
    }


def _load_concept(path: str) -> "Concept":
    """A concept file or training folder, else the newest of a folder's Orbax checkpoints."""
    from mrti_jax.concept import Concept
    from mrti_jax.concept.table import FILE_NAME

    folder = to_path(path)
    with reporting(f"can't read the concept '{path}'", folder):
        only_checkpoints = folder.is_dir() and not (folder / FILE_NAME).exists()
    if only_checkpoints:
        # Here, so that drawing with a concept file needs nothing that training needs.
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what is meant to be
        from mrti_jax.training.checkpoint import load_concept

        return load_concept(folder)
    return Concept.load(folder)


def _warn_if_unfinished(concept: "Concept") -> None:
    done, planned = (concept.metadata.get(key) for key in ("steps", "planned_steps"))
    if planned is not None and done != planned:
        warn(f"<{concept.name}> is drawn as it was after {done} of {planned} updates")


def _read_prompts(path: str | None) -> list[str]:
    if path is None:
        return []
    text = read_text(to_path(path), f"the prompts file {path} can't be read")
    lines = [line.strip() for line in text.split("\n")]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise UserError(f"the prompts file {path} holds no prompt")
    return prompts


if __name__ == "__main__":
    sys.exit(main())
