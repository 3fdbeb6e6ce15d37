# SPDX-License-Identifier: Apache-2.0
"""Labelled sheets of pictures drawn with the concept, during training and at its end."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from mrti_jax.concept import Concept
from mrti_jax.diffusion import NoiseSchedule, make_sampler, own_sampler
from mrti_jax.errors import UserError, warn
from mrti_jax.files import write_whole
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.processes import as_writer, is_writer
from mrti_jax.sampling import Picture, generate
from mrti_jax.sampling.bar import drawing_bar
from mrti_jax.sampling.grid import make_grid
from mrti_jax.sampling.guidance import EVERYWHERE
from mrti_jax.sampling.png import png_bytes, sheet_info
from mrti_jax.sampling.sweep import sweep
from mrti_jax.training.config import Config

FOLDER = "pictures"
FINAL_NAME = "grid.png"
SEEDS = (0, 1)
RESOLUTIONS = ("0.0", "0.5", "0.8")
MAX_COLUMNS = 10
MIN_PHOTOS = 4
PROMPTS = {"object": "a photo of a {}", "style": "a painting in the style of {}"}
# The photos' backgrounds are not the concept's: unless the prompt names one, they show through.
FINAL_PROMPTS = {**PROMPTS, "object": "a photo of a {} on a white background"}


def check_pictures(sd: StableDiffusion, picture_steps: int) -> None:
    """Warns if pictures can't be drawn with the sampler that the model is made for. Raises
    UserError for more steps than it has timesteps, and if no other sampler can draw them."""
    schedule = NoiseSchedule.from_config(sd.scheduler_config)
    most = schedule.num_train_timesteps
    if picture_steps > most:
        raise UserError(f"train.picture_steps is {picture_steps}, but must be at most {most}")
    name, problem = own_sampler(sd.scheduler_config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # drawing gives them
            make_sampler(name, sd.scheduler_config).plan(schedule, picture_steps)
    except UserError as error:
        raise UserError(
            f"the training's pictures can't be drawn with the sampler {name}: "
            f"{str(error).rstrip('.')}; to train without them, set train.final_grid to false and "
            "train.picture_every to 0"
        ) from None
    if problem and is_writer():
        warn(
            f"the training's pictures are drawn with {name}, not the model's own sampler: {problem}"
        )


def draw_progress(
    sd: StableDiffusion,
    concept: Concept,
    step: int,
    size: int,
    out: epath.Path,
    config: Config,
    heed_stop: Callable[[], None],
) -> None:
    """Writes the file `progress_path`: the word at some resolutions, always two seeds.

    `heed_stop` is called between pictures, in all processes; it may raise.
    """
    prompt = PROMPTS[config.data.learnable_property]
    prompts = [prompt.format(f"<{concept.name}[{value}]>") for value in RESOLUTIONS]
    pictures = generate(
        sd,
        prompts,
        [concept],
        seeds=SEEDS,
        **_options(sd, config, size),
        on_progress=lambda done, total: heed_stop(),
    )
    rows = [pictures[row :: len(SEEDS)] for row in range(len(SEEDS))]
    cells = [[picture.image for picture in row] for row in rows]
    labels = [f"seed {seed}" for seed in SEEDS]
    sheet = make_grid(cells, labels, prompts, f"<{concept.name}> after {step} steps")
    _save(sheet, rows, progress_path(out, step))


def progress_path(out: epath.Path, step: int) -> epath.Path:
    """Where the pictures drawn after `step` updates are: `out/pictures/step_000100.png`."""
    return out / FOLDER / f"step_{step:06d}.png"


def draw_final(
    sd: StableDiffusion,
    concept: Concept,
    photos: UInt8[np.ndarray, "p s s 3"],
    out: epath.Path,
    config: Config,
    heed_stop: Callable[[], None],
    *,
    progress: bool,
) -> None:
    """Writes `out/grid.png`: the photos, below them the word over the buckets, a row per scheme.

    `heed_stop`: as in `draw_progress`.
    """
    prompt = FINAL_PROMPTS[config.data.learnable_property]
    columns = min(concept.num_buckets, MAX_COLUMNS)
    values = [str(k * concept.num_buckets // columns) for k in range(columns)]
    size = photos.shape[1]
    with drawing_bar(disable=not progress) as show:

        def update(done: int, total: int) -> None:
            show(done, total)
            heed_stop()

        drawn = sweep(
            sd,
            prompt.format(f"<{concept.name}[{{k}}]>"),
            [concept],
            rows="schemes",
            values=values,
            **_options(sd, config, size),
            on_progress=update,
        )
    cells = [
        list(photos[: max(columns, MIN_PHOTOS)]),
        *([picture.image for picture in row] for row in drawn.pictures),
    ]
    title = (
        f"{prompt.format(f'<{concept.name}>')} - {config.train.steps} steps, k = 0 keeps the most"
    )
    labels = ["photos", *drawn.row_labels]
    sheet = make_grid(cells, labels, drawn.column_labels, title, rows_above=1)
    _save(sheet, drawn.pictures, out / FINAL_NAME)


def _options(sd: StableDiffusion, config: Config, size: int) -> dict[str, Any]:
    guided = config.train.picture_guidance > 1
    return {
        "sampler": own_sampler(sd.scheduler_config)[0],
        "num_steps": config.train.picture_steps,
        "guidance_scale": config.train.picture_guidance,
        "guidance_interval": config.train.picture_guidance_interval if guided else EVERYWHERE,
        "height": size,
        "width": size,
    }


def _save(sheet: Image.Image, rows: Sequence[Sequence[Picture]], path: epath.Path) -> None:
    as_writer(lambda: write_whole(path, png_bytes(sheet, sheet_info(rows))))
