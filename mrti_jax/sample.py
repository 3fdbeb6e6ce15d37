# SPDX-License-Identifier: Apache-2.0
"""The command `python -m mrti_jax.sample`: draws prompts, with concepts at any resolution."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mrti_jax.commands import ProcessFlags, join_processes, run_command, use_compilation_cache
from mrti_jax.errors import UserError
from mrti_jax.files import to_path
from mrti_jax.models.stored.model import SourceOptions

if TYPE_CHECKING:  # at run time they wait until the flags are read: --help needs no jax
    from mrti_jax.concept import Concept
    from mrti_jax.models.stable_diffusion import StableDiffusion
    from mrti_jax.sampling import Picture

PROG = "python -m mrti_jax.sample"
DESCRIPTION = """Draws pictures from prompts. A learned concept is a word in the prompt:
<star> as it was learned, <star[0.8]> with only its coarse features (fully resolution-dependent),
<star(0.8)> semi resolution-dependent, <star|3|> the row of bucket 3 throughout. A number with a
decimal point is a resolution, one without is a bucket."""
EXAMPLE = f'{PROG} "a photo of a red circle"'

DEFAULT_STEPS, DEFAULT_GUIDANCE = 50, 7.5
# More guidance draws the embedded model's colours stronger than a caption names them.
MINI_STEPS, MINI_GUIDANCE = 30, 3.0


@dataclass(frozen=True, kw_only=True)
class Flags(SourceOptions, ProcessFlags):
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to draw; each prompt in quotes."""
    prompts_file: str | None = None
    """A text file with a prompt on each line; empty lines and lines with # are left out."""
    concept: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A concept file, training folder or checkpoint folder; may be given several times."""
    model: str = "mini"
    """A diffusers folder, a single .safetensors or .ckpt file, a Hub id (owner/model), or 'mini',
    the embedded model."""
    sampler: str | None = None
    """ddim, pndm, euler, euler_karras, euler_ancestral, dpmpp_2m or dpmpp_2m_karras; the model's
    own if not given."""
    steps: int | None = None
    """Number of sampling steps; 50 if not given, 30 for the embedded model."""
    guidance: float | None = None
    """Scale of classifier-free guidance, 1 is none; 7.5 if not given, 3 for the embedded model."""
    guidance_rescale: float = 0.0
    """How far guided predictions are scaled back to the spread of unguided ones, 0 to 1; 0.7 where
    the model's noise schedule ends in pure noise (rescale_betas_zero_snr)."""
    negative_prompt: str = ""
    """What to guide away from."""
    size: int | None = None
    """Height and width in pixels; the model's own if not given."""
    height: int | None = None
    """Height in pixels, if not that of --size."""
    width: int | None = None
    """Width in pixels, if not that of --size."""
    original_size: tuple[int, int] | None = None
    """SDXL only: height and width of the original that the picture is to look scaled from; the
    picture's own if not given. Small ones give soft pictures."""
    crop: tuple[int, int] = (0, 0)
    """SDXL only: top and left of where the picture is to look cut out; 0 0 centres things."""
    target_size: tuple[int, int] | None = None
    """SDXL only: height and width that the original was cut to; the picture's own if not given."""
    seed: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = ()
    """Seed of the noise, 0 if not given; may be given several times."""
    images_per_prompt: int = 1
    """Pictures for each prompt and seed; they have the seeds s, s + 1, ..."""
    eta: float = 0.0
    """DDIM's share of fresh noise, 0 to 1."""
    nothing: Literal["zero", "drop", "initializer"] = "zero"
    """What stands in a word's place where it has no row: zero vectors, no word, or the word that
    training began from."""
    official_semi: bool = False
    """<star(k)> as in the code of the paper's authors: without bucket k itself."""
    grid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A prompt with {k} in it, drawn once for each bucket: "a photo of <star[{k}]>"; several are
    drawn one below the other."""
    grid_rows: Literal["seeds", "schemes"] = "seeds"
    """What the rows of each --grid are: the seeds, or the three schemes."""
    grid_value: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A bucket or resolution to put for {k}, all buckets if not given; several times."""
    out: str = "pictures"
    """Folder for the PNG files and their grid; nothing in it is overwritten."""
    batch_size: int = 8
    """The most pictures drawn at once; a CPU draws one after the other."""
    vae_slicing: Literal["auto", "on", "off"] = "auto"
    """Whether each device turns its pictures from latents to pixels one after the other, to save
    memory; auto does where a batch is estimated not to fit."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the model; float32 on a CPU and bfloat16 elsewhere if not given."""
    fsdp: int | None = None
    """Devices that hold the weights together, each a part; as few as have the memory, if not given:
    usually 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and gives its exit status."""
    return run_command(Flags, _run, argv, prog=PROG, description=DESCRIPTION)


def _run(flags: Flags) -> None:
    prompts = [*flags.prompts, *_read_prompts(flags.prompts_file)]
    if not prompts and not flags.grid:
        raise UserError(f"there is no prompt: give one, as in {EXAMPLE}")
    use_compilation_cache()
    join_processes(flags, stop_together=False)
    from mrti_jax.models.stable_diffusion import StableDiffusion
    from mrti_jax.parallel.banner import describe
    from mrti_jax.parallel.mesh import make_mesh
    from mrti_jax.parallel.processes import failing_together, is_writer
    from mrti_jax.sampling.generate import pictures_at_once
    from mrti_jax.sampling.png import check_folder

    check_folder(flags.out)
    concepts = [_load_concept(path) for path in flags.concept]
    mesh = None if flags.fsdp is None else make_mesh(fsdp=flags.fsdp)
    with failing_together():
        sd = StableDiffusion.load(flags.model, **flags.options, dtype=flags.dtype, mesh=mesh)
    if is_writer():
        pictures = pictures_at_once(sd.mesh, flags.batch_size)
        print(describe(sd.mesh, sd.dtype, pictures, -(-pictures // sd.mesh.size)))
    if prompts:
        _draw_prompts(flags, sd, concepts, prompts)
    if flags.grid:
        _draw_sweep(flags, sd, concepts)


def _draw_prompts(
    flags: Flags, sd: "StableDiffusion", concepts: "list[Concept]", prompts: list[str]
) -> None:
    from mrti_jax.sampling import generate

    with _bar() as progress:
        pictures = generate(sd, prompts, concepts, progress=progress, **_options(flags))
    per_prompt = len(pictures) // len(prompts)
    rows = [pictures[i : i + per_prompt] for i in range(0, len(pictures), per_prompt)]
    seeds = [f"seed {picture.parameters['seed']}" for picture in rows[0]]
    _save(flags, rows, prompts, seeds, _title(pictures[0]))


def _draw_sweep(flags: Flags, sd: "StableDiffusion", concepts: "list[Concept]") -> None:
    from mrti_jax.sampling.sweep import sweep

    with _bar() as progress:
        result = sweep(
            sd,
            flags.grid,
            concepts,
            rows=flags.grid_rows,
            values=flags.grid_value,
            progress=progress,
            **_options(flags),
        )
    title = _title(result.pictures[0][0])
    if len(flags.grid) == 1:  # of several, each is the label of its rows
        title = f"{flags.grid[0]} - {title}"
    _save(flags, result.pictures, result.row_labels, result.column_labels, title)


def _options(flags: Flags) -> dict[str, Any]:
    is_mini = flags.model == "mini"
    steps, guidance = flags.steps, flags.guidance
    return {
        "seeds": flags.seed or (0,),
        "images_per_prompt": flags.images_per_prompt,
        "num_steps": (MINI_STEPS if is_mini else DEFAULT_STEPS) if steps is None else steps,
        "guidance_scale": (MINI_GUIDANCE if is_mini else DEFAULT_GUIDANCE)
        if guidance is None
        else guidance,
        "guidance_rescale": flags.guidance_rescale,
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


def _save(
    flags: Flags,
    rows: "list[list[Picture]]",
    row_labels: list[str],
    column_labels: list[str],
    title: str,
) -> None:
    from mrti_jax.parallel.processes import is_writer
    from mrti_jax.sampling.grid import make_grid
    from mrti_jax.sampling.png import save_new, save_picture

    if not is_writer():  # all processes draw, one writes
        return
    paths = [save_picture(picture, flags.out) for row in rows for picture in row]
    cells = [[picture.image for picture in row] for row in rows]
    grid = save_new(make_grid(cells, row_labels, column_labels, title), flags.out, "grid")
    for path in paths[:8]:
        print(path)
    if len(paths) > 8:
        print(f"... and {len(paths) - 8} more in {flags.out}")
    print(f"{grid} (all {len(paths)} on one sheet)" if len(paths) > 1 else grid)


def _title(picture: "Picture") -> str:
    told = picture.parameters
    model = told["model"].rstrip("/").rsplit("/", 1)[-1]
    guidance = f"guidance {told['guidance_scale']:g}"
    return f"{model}, {told['sampler']}, {told['num_steps']} steps, {guidance}"


def _load_concept(path: str) -> "Concept":
    """A concept file or training folder, else the newest of a folder's Orbax checkpoints."""

    from mrti_jax.concept import Concept
    from mrti_jax.concept.table import FILE_NAME

    folder = to_path(path)
    if folder.is_dir() and not (folder / FILE_NAME).exists():
        # Here, so that drawing with a concept file needs nothing of what training needs.
        from mrti_jax.training.checkpoint import load_concept

        return load_concept(folder)
    return Concept.load(folder)


def _read_prompts(path: str | None) -> list[str]:
    if path is None:
        return []

    try:
        lines = to_path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the file of prompts {path} can't be read: {reason}") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise UserError(f"the file of prompts {path} holds no prompt")
    return prompts


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    from tqdm import tqdm

    from mrti_jax.parallel.processes import is_writer

    with tqdm(desc="drawing", unit="picture", disable=None if is_writer() else True) as bar:

        def update(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield update


if __name__ == "__main__":
    sys.exit(main())
