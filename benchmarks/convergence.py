# SPDX-License-Identifier: Apache-2.0
"""How many examples a recipe needs: the loss on fresh pictures of a concept, as it is learned.

Two recipes learn the same concepts from the same photos on the embedded model: the paper's and the
default. The loss is of pictures of the concepts that were not learned from, with noise, times and
templates that are always the same (benchmarks/held_out.py). Most of it is noise that no word
foresees, so it is told as the part of the way from the word that training starts from (0 %) to the
best caption in words (100 %); all concepts together, a ratio of means.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import tyro

from benchmarks.chart import draw_chart
from benchmarks.held_out import PER_SLOT, Grid, grid, held_out_loss
from benchmarks.learned import checksum, chosen, concept_photos
from benchmarks.report import Report
from mrti_jax.commands import use_compilation_cache
from mrti_jax.concept import Concept
from mrti_jax.mini.concepts import Appearance, best_caption
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import Config, learn, read_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    concepts: int = 6
    """How many of the world's concepts."""
    paper: str = "configs/paper.yaml"
    """One recipe: what is of the word, the optimizer and the training in it."""
    ours: str = "configs/mini.yaml"
    """The other one."""
    every: int = 400
    """Examples between points of a curve; updates of both recipes must divide it."""
    cache: str = "runs/benchmark_curves"
    """Folder for what was learned; a recipe found there is not learned again, and one that was cut
    off goes on."""
    model: str = "mini"
    """A diffusers folder, or the embedded model."""
    chart: str | None = None
    """File for a picture of the curves."""
    out: str | None = None
    """File for the report."""


@dataclasses.dataclass(frozen=True)
class Losses:
    """Of one concept: of the word that training starts from, of the best caption, and of each
    recipe's table after so many examples."""

    start: float
    caption: float
    curves: tuple[dict[int, float], dict[int, float]]


def main(flags: Flags) -> None:
    """Learns, measures and reports."""
    use_compilation_cache()
    report = Report("How many examples a recipe needs, by the loss on fresh pictures")
    sd = StableDiffusion.load(flags.model)
    report.line(
        f"base model: {Path(sd.name).name}, checksum {checksum(sd)}; {flags.concepts} concepts; "
        f"loss at {PER_SLOT} points in each tenth of diffusion time"
    )
    recipes = [_recipe(path, flags.every) for path in (flags.paper, flags.ours)]
    names = ("the paper's", "ours")
    for name, recipe in zip(names, recipes, strict=True):
        report.line(f"{name}: {_in_words(recipe)}")

    appearances = chosen(flags.concepts)
    measured = [_measure(sd, one, recipes, Path(flags.cache)) for one in appearances]
    curves = [_mean_curve(measured, side) for side in range(2)]
    after_all = [max(curve) for curve in curves]
    goals = [losses.curves[0][after_all[0]] for losses in measured]

    examples = sorted(set(curves[0]) | set(curves[1]))
    told = [[f"{curve[at]:.1f} %" if at in curve else "" for curve in curves] for at in examples]
    report.table(
        ("examples", *names), [(f"{at}", *cells) for at, cells in zip(examples, told, strict=True)]
    )
    report.table(
        ("loss", "start", "caption", "the paper's at the end", "ours at the end", "ours needs"),
        [
            (
                appearance.name,
                f"{losses.start:.4f}",
                f"{losses.caption:.4f}",
                f"{goal:.4f}",
                f"{losses.curves[1][after_all[1]]:.4f}",
                _needs(losses.curves[1], goal),
            )
            for appearance, losses, goal in zip(appearances, measured, goals, strict=True)
        ],
    )
    means = {at: float(np.mean([losses.curves[1][at] for losses in measured])) for at in curves[1]}
    report.line()
    report.line(
        f"the mean loss that the paper's recipe reaches after {after_all[0]} examples: "
        f"ours needs {_needs(means, float(np.mean(goals)))} (the first point at or below it)"
    )
    if flags.chart is not None:
        chart = draw_chart(
            {name: [(0, 0.0), *curve.items()] for name, curve in zip(names, curves, strict=True)},
            f"Learning {flags.concepts} concepts",
            "examples",
            "% of the way from the start to the best caption",
        )
        chart.save(flags.chart)
        report.line(f"chart: {flags.chart}")
    report.end(flags.out)


def tables(
    sd: StableDiffusion, appearance: Appearance, recipe: Config, cache: Path
) -> dict[int, Concept]:
    """What was learned after so many examples, at each checkpoint of the recipe."""
    settings = repr((recipe.concept, recipe.optimizer, recipe.train)).encode()
    folder = cache / f"{appearance.name}-{checksum(sd)}-{zlib.crc32(settings):08x}"
    saved = folder / "checkpoints"
    if not (saved / str(recipe.train.steps)).exists():
        learn(
            sd,
            concept_photos(appearance),
            name=appearance.name,
            initializer=appearance.combo.shape,
            config=recipe,
            out=folder,
            progress=True,
        )
    found = {}
    with ocp.StandardCheckpointer() as reader:
        for step in sorted(int(path.name) for path in saved.iterdir()):
            arrays = reader.restore((saved / str(step) / "concept").resolve())
            found[step * recipe.train.batch_size] = Concept(appearance.name, **arrays)
    return found


def _recipe(path: str, every: int) -> Config:
    """What decides how a table is learned, on the embedded model, with a checkpoint for each point
    of the curve."""
    recipe = read_config(path)
    if every % recipe.train.batch_size:
        raise ValueError(f"--every {every} is no multiple of {path}'s {recipe.train.batch_size}")
    train = dataclasses.replace(
        recipe.train,
        checkpoint_every=every // recipe.train.batch_size,
        keep=recipe.train.steps,
        picture_every=0,
        final_grid=False,
    )
    return Config(concept=recipe.concept, optimizer=recipe.optimizer, train=train)


def _in_words(recipe: Config) -> str:
    optimizer, train = recipe.optimizer, recipe.train
    return (
        f"{train.steps} updates of {train.batch_size} examples, learning rate "
        f"{optimizer.learning_rate:g} {optimizer.schedule}, {train.timesteps} times, "
        f"{train.weighting} weighting, {'dense' if optimizer.dense else 'rows apart'}"
        f"{', shared base' if optimizer.shared else ''}, weight decay {optimizer.weight_decay:g}, "
        f"{recipe.concept.num_vectors} vectors"
    )


def _measure(
    sd: StableDiffusion, appearance: Appearance, recipes: Sequence[Config], cache: Path
) -> Losses:
    points = grid(sd, appearance)
    caption = best_caption(appearance).removeprefix("a photo of a ")
    paper, ours = (
        {
            examples: _loss(sd, points, f"<{appearance.name}>", concept)
            for examples, concept in tables(sd, appearance, recipe, cache).items()
        }
        for recipe in recipes
    )
    return Losses(
        _loss(sd, points, appearance.combo.shape),
        _loss(sd, points, caption),
        (paper, ours),
    )


def _loss(sd: StableDiffusion, points: Grid, word: str, concept: Concept | None = None) -> float:
    return float(held_out_loss(sd, points, word, concept).mean())


def _mean_curve(measured: Sequence[Losses], side: int) -> dict[int, float]:
    """Per cent of the way from the start to the caption."""
    start = np.mean([losses.start for losses in measured])
    caption = np.mean([losses.caption for losses in measured])
    return {
        at: float(
            100
            * (start - np.mean([losses.curves[side][at] for losses in measured]))
            / (start - caption)
        )
        for at in measured[0].curves[side]
    }


def _needs(curve: dict[int, float], goal: float) -> str:
    """The fewest examples after which the loss is at most `goal`."""
    enough = [at for at, loss in curve.items() if loss <= goal]
    return f"{min(enough)}" if enough else f"more than {max(curve)}"


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
