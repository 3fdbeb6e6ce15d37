# SPDX-License-Identifier: Apache-2.0
"""What each scheme keeps and loses as k grows: <name[k]>, <name(k)>, <name|k|> for every bucket k.

Two views of every drawing. To the photos: the coarse, fine and aligned distances of
benchmarks/distances.py. To the drawing of <name[0]> from the same noise, which fixes the layout:
the root mean square CIELAB difference of the whole pictures after a Gaussian blur of 4 px
(low-pass), and of what the blur took away (high-pass). For comparison, drawings of an unrelated
prompt. All prompts name a background that the object stands out from. Spearman's rank correlation
says whether a distance grows with k: of the mean over all concepts and seeds, and the mean of each
concept's own.
"""

import dataclasses

import numpy as np
import tyro
from jaxtyping import Float
from scipy.stats import spearmanr

from benchmarks.distances import Cutout, same_noise, to_photos
from benchmarks.learned import (
    Drawing,
    Learning,
    background,
    chosen,
    concept_photos,
    draw,
    learned,
)
from benchmarks.report import Report, mean_and_error
from mrti_jax.commands import use_compilation_cache
from mrti_jax.concept import BRACKETS, Nothing, Scheme, resolution_to_bucket
from mrti_jax.mini.concepts import best_caption
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling.grid import make_grid

COARSE = 0.8  # the resolution of outlines and colours
MEASURES = ("coarse", "fine", "aligned", "low-pass", "high-pass")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    concepts: int = 10
    """How many of the world's concepts."""
    seeds: int = 4
    """Noises; each is used for every scheme and k."""
    buckets: int = 10
    """Rows of the tables."""
    nothing: Nothing = "zero"
    """What stands in the word's place where the semi scheme has no row."""
    learning: tyro.conf.OmitArgPrefixes[Learning] = dataclasses.field(default_factory=Learning)
    drawing: tyro.conf.OmitArgPrefixes[Drawing] = dataclasses.field(default_factory=Drawing)
    model: str = "mini"
    """A diffusers folder, or the embedded model."""
    sheet: str | None = None
    """File for a sheet: a scheme in each row, k in the columns, for the first concepts."""
    sheet_concepts: int = 2
    """Concepts on the sheet."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Learns (or reads what was learned), draws, measures and reports."""
    use_compilation_cache()
    report = Report("What each scheme keeps and loses as k grows (Delta E)")
    sd = StableDiffusion.load(flags.model)
    appearances = chosen(flags.concepts + 1)
    report.line(
        f"{flags.concepts} concepts, {flags.seeds} noises each; tables of {flags.buckets} rows, "
        f"sharing {flags.learning.sharing:g}, "
        f"{flags.learning.updates} updates of {flags.learning.batch_size} examples; "
        f"drawn in {flags.drawing.in_words}, nothing = {flags.nothing}"
    )
    ks = range(flags.buckets)
    everything, unrelated, cells, labels = [], [], [], []
    for index, appearance in enumerate(appearances[: flags.concepts]):
        table = learned(sd, appearance, flags.buckets, flags.learning)
        other = appearances[(index + len(appearances) // 2) % len(appearances)]
        prompts = [
            f"a photo of a <{appearance.name}{left}{k}{right}> {background(appearance)}"
            for left, right in BRACKETS.values()
            for k in ks
        ]
        seeds = range(flags.seeds)
        drawings = draw(
            sd,
            [*prompts, f"{best_caption(other)} {background(other)}"],
            [table],
            seeds,
            flags.drawing,
            nothing=flags.nothing,
        )
        photos = [Cutout(picture) for picture in concept_photos(appearance, 64)]
        cutouts = [[Cutout(image) for image in images] for images in drawings]
        # Prompt 0 is <name[0]>.
        values = np.array(
            [
                [measure(cutout, cutouts[0][seed], photos) for seed, cutout in enumerate(row)]
                for row in cutouts
            ]
        )
        everything.append(values[:-1].reshape(len(BRACKETS), len(ks), flags.seeds, len(MEASURES)))
        unrelated.append(values[-1])
        if index < flags.sheet_concepts:
            for row, scheme in enumerate(BRACKETS):
                cells.append([images[0] for images in drawings[row * len(ks) :][: len(ks)]])
                labels.append(f"{appearance.name}, {scheme}")

    distances, ceiling = np.array(everything), np.array(unrelated)
    for row, scheme in enumerate(BRACKETS):
        tell_scheme(report, scheme, distances[:, row], ceiling)
    if flags.sheet is not None:
        make_grid(cells, labels, [f"k = {k}" for k in ks]).save(flags.sheet)
        report.line(f"sheet: {flags.sheet}")
    report.end(flags.out)


def measure(drawing: Cutout, full: Cutout, photos: list[Cutout]) -> list[float]:
    """The MEASURES of one drawing; `full` is `<name[0]>` from the same noise."""
    return [*dataclasses.astuple(to_photos(drawing, photos)), *same_noise(drawing, full)]


def tell_scheme(
    report: Report,
    scheme: Scheme,
    values: Float[np.ndarray, "concepts k seeds m"],
    unrelated: Float[np.ndarray, "concepts seeds m"],
) -> None:
    """A table of one scheme: a row for each k, the unrelated prompt, how many concepts are farther
    at a coarse resolution than at the finest, and Spearman's rho."""
    ks = np.arange(values.shape[1])
    per_concept = values.mean(2)
    rows = [
        (f"k = {k}", *(mean_and_error(per_concept[:, k, m]) for m in range(len(MEASURES))))
        for k in ks
    ]
    others = unrelated.mean(1)
    rows.append(("unrelated prompt", *(mean_and_error(others[:, m]) for m in range(len(MEASURES)))))
    curves = per_concept.mean(0)
    far = per_concept[:, resolution_to_bucket(COARSE, len(ks))] > per_concept[:, 0]
    rows.append((f"farther at {COARSE:g} than at 0", *(f"{n} of {len(far)}" for n in far.sum(0))))
    rows.append(("Spearman with k", *(rank(curves[:, m]) for m in range(len(MEASURES)))))
    own = [
        f"{np.mean([float(rank(curve[:, m])) for curve in per_concept]):.2f}"
        for m in range(len(MEASURES))
    ]
    rows.append(("mean of the concepts' own", *own))
    left, right = BRACKETS[scheme]
    report.table((f"{scheme}, <name{left}k{right}>", *MEASURES), rows)


def rank(curve: Float[np.ndarray, " k"]) -> str:
    """Spearman's rank correlation with k; a constant curve has none."""
    return f"{spearmanr(np.arange(len(curve)), curve).statistic:.2f}" if np.ptp(curve) else "nan"


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
