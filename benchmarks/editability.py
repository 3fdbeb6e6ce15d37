# SPDX-License-Identifier: Apache-2.0
"""How much of the rest of a prompt a learned word leaves in effect, by its number of vectors.

"a photo of a <name> on a {colour} background" for several colours, read by the embedded world's
checker, which has no trained parts (mrti_jax/mini/checker.py): is the background the prompt's, are
shape and colours the concept's? The learning rate is shared out over the vectors, so each recipe
moves its word about as far. For comparison, the best caption in words; and the loss on fresh
pictures of the concept (benchmarks/held_out.py).
"""

import dataclasses

import numpy as np
import tyro

from benchmarks.held_out import grid, held_out_loss
from benchmarks.learned import Drawing, Learning, chosen, draw, learned
from benchmarks.report import Report
from mrti_jax.commands import use_compilation_cache
from mrti_jax.concept import Concept
from mrti_jax.mini.checker import read
from mrti_jax.mini.concepts import Appearance, best_caption
from mrti_jax.models.stable_diffusion import StableDiffusion

BACKGROUNDS = ("white", "black", "yellow", "blue", "pink", "green")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    concepts: int = 8
    """How many of the world's concepts."""
    seeds: int = 4
    """Drawings of each prompt."""
    vectors: tuple[int, ...] = (1, 3)
    """Numbers of vectors to compare."""
    buckets: int = 10
    """Rows of the tables."""
    learning: tyro.conf.OmitArgPrefixes[Learning] = dataclasses.field(default_factory=Learning)
    drawing: tyro.conf.OmitArgPrefixes[Drawing] = dataclasses.field(default_factory=Drawing)
    model: str = "mini"
    """A diffusers folder, or the embedded model."""
    out: str | None = None
    """File for the report."""


def main(flags: Flags) -> None:
    """Learns, draws, reads and reports."""
    use_compilation_cache()
    report = Report("What the rest of a prompt has to say about a learned word")
    sd = StableDiffusion.load(flags.model)
    report.line(
        f"{flags.concepts} concepts, {flags.seeds} drawings on each of {len(BACKGROUNDS)} "
        f"backgrounds; tables of {flags.buckets} rows, {flags.learning.updates} updates of "
        f"{flags.learning.batch_size} examples; drawn in {flags.drawing.in_words}"
    )
    appearances = chosen(flags.concepts)
    figures: dict[str, list[list[float]]] = {}
    for appearance in appearances:
        points = grid(sd, appearance)
        caption = best_caption(appearance).removeprefix("a photo of a ")
        words: dict[str, tuple[str, Concept | None]] = {"best caption in words": (caption, None)}
        for count in flags.vectors:
            table = learned(sd, appearance, flags.buckets, flags.learning, count)
            told = f"<name> of {count} vector{'s' if count > 1 else ''}"
            words[told] = f"<{table.name}>", table
        for method, (word, concept) in words.items():
            prompts = [f"a photo of a {word} on a {colour} background" for colour in BACKGROUNDS]
            concepts = [] if concept is None else [concept]
            drawings = draw(sd, prompts, concepts, range(flags.seeds), flags.drawing)
            loss = float(held_out_loss(sd, points, word, concept).mean())
            figures.setdefault(method, []).append([*right(drawings, appearance), loss])

    rows = []
    for method, each in figures.items():
        *shares, loss = np.mean(each, axis=0)
        rows.append((method, *(f"{100 * share:.0f} %" for share in shares), f"{loss:.4f}"))
    report.table(
        ("mean over the concepts", "background", "shape", "colour", "loss on fresh pictures"), rows
    )
    report.table(
        ("background", *figures),
        [
            (appearance.name, *(f"{100 * each[i][0]:.0f} %" for each in figures.values()))
            for i, appearance in enumerate(appearances)
        ],
    )
    report.end(flags.out)


def right(drawings: list[list[np.ndarray]], appearance: Appearance) -> tuple[float, float, float]:
    """Shares of the drawings [backgrounds][seeds] whose background is the prompt's, and whose shape
    and whose colour are the concept's."""
    combo = appearance.combo
    readings = [[read(image) for image in images] for images in drawings]
    backgrounds = [
        reading.background == wanted
        for wanted, each in zip(BACKGROUNDS, readings, strict=True)
        for reading in each
    ]
    flat = [reading for each in readings for reading in each]
    return (
        float(np.mean(backgrounds)),
        float(np.mean([reading.shape == combo.shape for reading in flat])),
        float(np.mean([reading.colour == combo.colour for reading in flat])),
    )


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
