# SPDX-License-Identifier: Apache-2.0
"""Pictures drawn into a folder: each saved as it is drawn, then a labelled sheet of all of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from etils import epath

from mrti_jax.concept import Concept
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.processes import as_writer, is_writer
from mrti_jax.sampling.bar import drawing_bar
from mrti_jax.sampling.generate import Picture, generate
from mrti_jax.sampling.grid import make_grid
from mrti_jax.sampling.guidance import in_words
from mrti_jax.sampling.png import save_new, save_picture, sheet_info
from mrti_jax.sampling.sweep import sweep

MAX_COLUMNS = 10
MAX_TOLD = 8  # files


def draw_prompts(
    sd: StableDiffusion,
    prompts: Sequence[str],
    concepts: Sequence[Concept],
    out: epath.PathLike,
    **options: Any,
) -> None:
    """Draws each prompt with each seed into the folder; `options`: as for `generate`."""
    with _saving(out) as callbacks:
        pictures = generate(sd, prompts, concepts, **callbacks, **options)
    per_prompt = len(pictures) // len(prompts)
    rows = [pictures[i : i + per_prompt] for i in range(0, len(pictures), per_prompt)]
    labels = list(prompts)
    columns = [f"seed {picture.parameters['seed']}" for picture in rows[0]]
    if per_prompt > MAX_COLUMNS:
        rows = [row[i : i + MAX_COLUMNS] for row in rows for i in range(0, per_prompt, MAX_COLUMNS)]
        told = [row[0].parameters for row in rows]
        labels = [f"{first['prompt']} - from seed {first['seed']}" for first in told]
        columns = []
    _save_sheet(out, rows, labels, columns, _title(pictures[0]))


def draw_sweep(
    sd: StableDiffusion,
    templates: Sequence[str],
    concepts: Sequence[Concept],
    out: epath.PathLike,
    **options: Any,
) -> None:
    """Draws the templates at each value of `{k}` into the folder; `options`: as for `sweep`."""
    with _saving(out) as callbacks:
        result = sweep(sd, templates, concepts, **callbacks, **options)
    title = _title(result.pictures[0][0])
    seeds = {row[0].parameters["seed"] for row in result.pictures}
    if len(seeds) == 1:
        title = f"{title}, seed {seeds.pop()}"
    if len(templates) == 1:  # if there are several, each is the label of its rows
        title = f"{templates[0]} - {title}"
    _save_sheet(out, result.pictures, result.row_labels, result.column_labels, title)


@contextmanager
def _saving(out: epath.PathLike) -> Iterator[dict[str, Any]]:
    """Callbacks of `generate` that show a bar and save each picture as it is drawn; at the end, or
    when interrupted, it says where they are."""
    paths: list[epath.Path] = []

    def save(picture: Picture) -> None:
        as_writer(lambda: paths.append(save_picture(picture, out)))

    try:
        with drawing_bar(disable=None if is_writer() else True) as update:
            yield {"on_progress": update, "on_picture": save}
    finally:
        for path in paths[:MAX_TOLD]:
            print(path)
        if len(paths) > MAX_TOLD:
            print(f"... and {len(paths) - MAX_TOLD} more in {out}")


def _save_sheet(
    out: epath.PathLike,
    rows: Sequence[Sequence[Picture]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
) -> None:
    count = sum(map(len, rows))
    if count == 1:
        return

    def save() -> None:
        cells = [[picture.image for picture in row] for row in rows]
        sheet = make_grid(cells, row_labels, column_labels, title)
        path = save_new(sheet, out, "grid", sheet_info(rows))
        print(f"{path} (all {count} on one sheet)")

    as_writer(save)


def _title(picture: Picture) -> str:
    told = picture.parameters
    model = told["model"].rstrip("/").rsplit("/", 1)[-1]
    guidance = in_words(told["guidance_scale"], tuple(told["guidance_interval"]))
    return f"{model}, {told['sampler']}, {told['num_steps']} steps, {guidance}"
