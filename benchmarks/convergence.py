# SPDX-License-Identifier: Apache-2.0
"""How many examples a recipe needs: the loss on fresh pictures of a concept, as it is learned.

Several recipes learn the same concepts from the same photos on the embedded model. The loss is on
pictures of the concepts that were not learned from, with noise, times and templates that are always
the same (benchmarks/held_out.py). Most of it is noise that no word predicts, so it is reported as
the share of the way from the word that training starts from (0 %) to the best caption in words
(100 %); over all concepts, as a ratio of means. The first recipe's loss after all its examples is
the goal of the others.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import tyro
import yaml
from etils import epath

from benchmarks.chart import draw_chart
from benchmarks.held_out import PER_TENTH, Grid, grid, held_out_loss
from benchmarks.learned import checksum, chosen, concept_photos, settings_checksum
from benchmarks.report import Report
from mrti_jax.commands import use_compilation_cache
from mrti_jax.concept import Concept
from mrti_jax.mini.concepts import Appearance, best_caption
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import Config, learn
from mrti_jax.training.learning_rate import with_learning_rate
from mrti_jax.training.yaml import from_mapping, read_yaml


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    concepts: int = 6
    """How many of the world's concepts."""
    recipes: tuple[str, ...] = (
        "configs/paper.yaml",
        "configs/mini.yaml",
        "configs/paper.yaml@optimizer.learning_rate=0.0155",
    )
    """Files of settings, of which those of the word, the optimizer and the training count;
    FILE@SECTION.KEY=VALUE changes one of them."""
    every: int = 400
    """Examples between points of a curve; the recipes' batches must divide it."""
    cache: str = "runs/benchmark_curves"
    """Folder for what was learned; a recipe found there is not learned again, and an interrupted
    one resumes."""
    model: str = "mini"
    """A diffusers folder, or the embedded model."""
    chart: str | None = None
    """File for a picture of the curves."""
    out: str | None = None
    """File for the report."""


@dataclasses.dataclass(frozen=True)
class Losses:
    """Of one concept: of the word that training starts from, of the best caption, and of each
    recipe's table by number of examples."""

    start: float
    caption: float
    curves: list[dict[int, float]]


def main(flags: Flags) -> None:
    """Learns, measures and reports."""
    use_compilation_cache()
    report = Report("How many examples a recipe needs, by the loss on fresh pictures")
    sd = StableDiffusion.load(flags.model)
    report.line(
        f"base model: {Path(sd.source.name).name}, checksum {checksum(sd)}; "
        f"{flags.concepts} concepts; loss at {PER_TENTH} points in each tenth of diffusion time"
    )
    names = [Path(recipe).name.replace(".yaml", "") for recipe in flags.recipes]
    recipes = [
        with_learning_rate(_recipe(recipe, flags.every), sd.text_encoder)
        for recipe in flags.recipes
    ]
    for name, recipe in zip(names, recipes, strict=True):
        report.line(f"{name}: {_in_words(recipe)}")

    appearances = chosen(flags.concepts)
    measured = [_measure(sd, one, recipes, Path(flags.cache)) for one in appearances]
    mean = _mean(measured)

    ways = [
        {at: 100 * (mean.start - loss) / (mean.start - mean.caption) for at, loss in curve.items()}
        for curve in mean.curves
    ]
    report.table(
        ("examples", *names),
        [
            (f"{at}", *(f"{way[at]:.1f} %" if at in way else "" for way in ways))
            for at in sorted({at for way in ways for at in way})
        ],
    )
    report.table(
        ("loss", "start", "caption", *names, *(f"{name} needs" for name in names[1:])),
        [
            (
                name,
                f"{losses.start:.4f}",
                f"{losses.caption:.4f}",
                *(f"{_last(curve):.4f}" for curve in losses.curves),
                *(_needs(curve, _last(losses.curves[0])) for curve in losses.curves[1:]),
            )
            for name, losses in zip(
                [*(one.name for one in appearances), "mean"], [*measured, mean], strict=True
            )
        ],
    )
    report.line(
        f"needs: the first point of the curve at or below {names[0]}'s loss after its "
        f"{max(mean.curves[0])} examples"
    )
    if flags.chart is not None:
        chart = draw_chart(
            {name: [(0, 0.0), *way.items()] for name, way in zip(names, ways, strict=True)},
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
    """What was learned, by number of examples, at each checkpoint of the recipe."""
    folder = cache / f"{appearance.name}-{checksum(sd)}-{settings_checksum(recipe)}"
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


def _recipe(named: str, every: int) -> Config:
    """What decides how a table is learned, on the embedded model, with a checkpoint for each point
    of the curve."""
    path, _, change = named.partition("@")
    settings = dict(read_yaml(epath.Path(path)))
    if change:
        key, value = change.split("=")
        section, name = key.split(".")
        settings[section] = settings.get(section, {}) | {name: yaml.safe_load(value)}
    recipe = from_mapping(Config, settings, path)
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
        f"{train.weighting} weighting, {'dense, ' if optimizer.dense else ''}"
        f"sharing {optimizer.sharing:g}, weight decay {optimizer.weight_decay:g}, "
        f"{recipe.concept.num_vectors} vector{'s' if recipe.concept.num_vectors > 1 else ''}"
    )


def _measure(
    sd: StableDiffusion, appearance: Appearance, recipes: Sequence[Config], cache: Path
) -> Losses:
    points = grid(sd, appearance)
    curves = [
        {
            examples: _loss(sd, points, f"<{appearance.name}>", concept)
            for examples, concept in tables(sd, appearance, recipe, cache).items()
        }
        for recipe in recipes
    ]
    caption = best_caption(appearance).removeprefix("a photo of a ")
    return Losses(_loss(sd, points, appearance.combo.shape), _loss(sd, points, caption), curves)


def _loss(sd: StableDiffusion, points: Grid, word: str, concept: Concept | None = None) -> float:
    return float(held_out_loss(sd, points, word, concept).mean())


def _mean(measured: Sequence[Losses]) -> Losses:
    """Over concepts."""
    start = float(np.mean([losses.start for losses in measured]))
    caption = float(np.mean([losses.caption for losses in measured]))
    curves = [
        {at: float(np.mean([curve[at] for curve in same])) for at in same[0]}
        for same in zip(*(losses.curves for losses in measured), strict=True)
    ]
    return Losses(start, caption, curves)


def _last(curve: dict[int, float]) -> float:
    return curve[max(curve)]


def _needs(curve: dict[int, float], goal: float) -> str:
    """The fewest examples after which the loss is at most `goal`."""
    enough = [at for at, loss in curve.items() if loss <= goal]
    return f"{min(enough)}" if enough else f"more than {max(curve)}"


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
