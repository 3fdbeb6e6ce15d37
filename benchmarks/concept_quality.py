# SPDX-License-Identifier: Apache-2.0
"""How close to its photos a learned word draws its concept: a table of 10 rows, ordinary Textual
Inversion (1 row, as many vectors and examples), and the best caption in words.

The concepts' combinations of shape, texture and colour were kept out of the base model's training,
and their proportions, shades, angles and periods have no words. benchmarks/distances.py defines the
distances. "photos among themselves" is what a perfect drawing would score, "photos after the VAE"
what a perfect U-Net could, and "another concept" is the best caption of another concept. The scale
puts the first and the last at 0 and 100 %. "its true name" is the word that the map of names
(mrti_jax/mini/names.py) has for it: how close the base model comes when nothing has to be learned.
All are drawn on a background that the object stands out from.
"""

import dataclasses

import numpy as np
import tyro

from benchmarks.distances import Cutout, Distances, to_others, to_photos
from benchmarks.learned import (
    Drawing,
    Learning,
    background,
    chosen,
    concept_photos,
    draw,
    learned,
    learning_config,
)
from benchmarks.report import Report, mean_and_error
from benchmarks.round_trip import round_trip
from mrti_jax.commands import use_compilation_cache
from mrti_jax.concept import Concept
from mrti_jax.mini.concepts import Appearance, best_caption, photos
from mrti_jax.mini.names import appearance_features, load_map
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling.grid import make_grid

FLOOR, DECODED, TABLE, SINGLE, NAMED, WORDS, OTHER = (
    "photos among themselves",
    "photos after the VAE",
    "<name>, a table",
    "<name>, 1 row",
    "its true name",
    "best caption in words",
    "another concept",
)
METHODS = (TABLE, SINGLE, NAMED, WORDS, OTHER)
FIELDS = tuple(field.name for field in dataclasses.fields(Distances))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    concepts: int = 14
    """How many of the world's concepts."""
    seeds: int = 8
    """Drawings of each prompt."""
    buckets: int = 10
    """Rows of the table."""
    learning: tyro.conf.OmitArgPrefixes[Learning] = dataclasses.field(default_factory=Learning)
    drawing: tyro.conf.OmitArgPrefixes[Drawing] = dataclasses.field(default_factory=Drawing)
    model: str = "mini"
    """A diffusers folder, or the embedded model."""
    sheet: str | None = None
    """File for a sheet of photos and drawings, a row for each concept."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Learns, draws, measures and reports."""
    use_compilation_cache()
    report = Report("How near a learned word draws its concept to the photos (Delta E)")
    sd = StableDiffusion.load(flags.model)
    names = load_map(flags.model)
    appearances = chosen(flags.concepts + 1)
    rate = learning_config(sd, flags.buckets, flags.learning).optimizer.learning_rate
    report.line(
        f"{flags.concepts} concepts, {flags.seeds} drawings each; {flags.buckets} rows and 1 row, "
        f"both {flags.learning.updates} updates of {flags.learning.batch_size} examples, learning "
        f"rate {rate:g}; drawn in {flags.drawing.in_words}"
    )
    found: dict[str, list[list[Distances]]] = {method: [] for method in (FLOOR, DECODED, *METHODS)}
    empty = dict.fromkeys(METHODS, 0)
    cells, labels = [], []
    for index, appearance in enumerate(appearances[: flags.concepts]):
        table = learned(sd, appearance, flags.buckets, flags.learning)
        single = learned(sd, appearance, 1, flags.learning)
        # Half the list further on, so that neighbours, which are similar, aren't paired.
        other = appearances[(index + len(appearances) // 2) % len(appearances)]
        own, others = background(appearance), background(other)
        prompts = [
            f"a photo of a <{table.name}> {own}",
            f"a photo of a <{single.name}-single> {own}",
            f"a photo of a <{table.name}-true> {own}",
            f"{best_caption(appearance)} {own}",
            f"{best_caption(other)} {others}",
        ]
        words = [
            table,
            dataclasses.replace(single, name=f"{single.name}-single"),
            dataclasses.replace(true_name(appearance, names, single), name=f"{table.name}-true"),
        ]
        drawings = draw(sd, prompts, words, range(flags.seeds), flags.drawing)
        pictures = concept_photos(appearance, 64)
        references = [Cutout(picture) for picture in pictures]
        found[FLOOR].append(to_others(references, references))
        decoded = [Cutout(picture) for picture in round_trip(sd, np.stack(pictures))]
        found[DECODED].append(to_others(decoded, references))
        for method, images in zip(METHODS, drawings, strict=True):
            cutouts = [Cutout(image) for image in images]
            found[method].append([to_photos(cutout, references) for cutout in cutouts])
            empty[method] += sum(not cutout.found for cutout in cutouts)
        cells.append([*pictures[:2], *(image for images in drawings[:4] for image in images[:2])])
        labels.append(" ".join(filter(None, (f"{appearance.name}:", *appearance.combo))))

    values = {method: measured(per_concept) for method, per_concept in found.items()}
    low, high = values[FLOOR].mean((0, 1)), values[OTHER].mean((0, 1))
    rows = []
    for method, numbers in values.items():
        scaled = 100 * (numbers.mean((0, 1)) - low) / (high - low)
        told = [
            cell
            for i in range(len(FIELDS))
            for cell in (
                mean_and_error(numbers[..., i].mean(1)),
                f"{numbers[..., i].std(1, ddof=1).mean() if numbers.shape[1] > 1 else 0:.1f}",
                f"{scaled[i]:.0f} %",
            )
        ]
        rows.append((method, *told, str(empty.get(method, ""))))
    header = [cell for field in FIELDS for cell in (field, "spread", "scale")]
    report.table(("mean +- standard error", *header, "no object"), rows)
    report.line("standard error: over concepts; spread: standard deviation over drawings of one")

    rows = []
    for method in (SINGLE, NAMED, WORDS):
        gaps = (values[method] - values[TABLE]).mean(1)
        nearer = [f"{(gaps[:, i] > 0).sum()} of {len(gaps)}" for i in range(len(FIELDS))]
        told = [c for i in range(len(FIELDS)) for c in (mean_and_error(gaps[:, i]), nearer[i])]
        rows.append((f"{method} - {TABLE}", *told))
    header = [cell for field in FIELDS for cell in (field, "table nearer")]
    report.table(("paired difference", *header), rows)

    for i, field in enumerate(FIELDS[:2]):
        report.table(
            (field, *values),
            [
                (a.name, *(f"{numbers[c, :, i].mean():.1f}" for numbers in values.values()))
                for c, a in enumerate(appearances[: flags.concepts])
            ],
        )
    if flags.sheet is not None:
        columns = [c for name in ("photo", TABLE, SINGLE, NAMED, "words") for c in (name, name)]
        columns = columns[: len(cells[0])]
        make_grid(cells, labels, columns).save(flags.sheet)
        report.line(f"sheet: {flags.sheet}")
    report.end(flags.out)


def true_name(appearance: Appearance, names: np.ndarray, like: Concept) -> Concept:
    """The word of one row and vector that the map of names has; else as `like`."""
    (scene,) = photos(appearance, 1, rng=np.random.default_rng(0))
    return dataclasses.replace(like, embeddings=(appearance_features([scene]) @ names)[None])


def measured(per_concept: list[list[Distances]]) -> np.ndarray:
    """Distances as an array [concepts, drawings, 3]."""
    return np.array([[dataclasses.astuple(d) for d in drawings] for drawings in per_concept])


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
