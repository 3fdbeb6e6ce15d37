# SPDX-License-Identifier: Apache-2.0
"""Ready-made concepts: held-out appearances with details that no words can tell.

Each has its own shade, proportions and texture details, the same in all of its photos; placement,
size, background and now and then the style vary, as in a user's handful of photos.

`python -m mrti_jax.mini.concepts FOLDER [NAME]` draws a concept's photos; without a name those of
the sample concept that ship in `mrti_jax/assets/concept`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath
from PIL import Image

from mrti_jax.errors import UserError, nearest
from mrti_jax.mini.world.caption import with_article
from mrti_jax.mini.world.combos import Combo
from mrti_jax.mini.world.palette import Shift
from mrti_jax.mini.world.render import render
from mrti_jax.mini.world.scene import Scene, random_background, random_placement


@dataclass(frozen=True)
class Appearance:
    """A named concept of the world; fields as in `Scene`."""

    name: str
    combo: Combo
    aspect: float
    angle: float
    period: float
    phase: float
    duty: float
    colour_shift: Shift = (0.0, 0.0, 0.0)
    second_shift: Shift = (0.0, 0.0, 0.0)


def _appearance(
    name: str,
    words: str,
    aspect: float,
    angle: float,
    period: float,
    phase: float,
    duty: float,
    shifts: tuple[Shift, Shift],
) -> Appearance:
    combo = Combo(*words.split())
    return Appearance(name, combo, aspect, angle, period, phase, duty, *shifts)


# name, words, aspect, angle, period, phase, duty, shifts of the two colours
_ALL = (
    _appearance("jane", "star striped blue yellow", 1.0, 0.26, 10.0, 0.25, 0.42,
                shifts=((-0.012, 0.02, 0.035), (-0.010, 0.03, 0.0))),
    _appearance("nell", "heart checked red white", 1.08, 0.2, 9.4, 0.1, 0.5,
                shifts=((-0.010, 0.0, 0.03), (0.0, 0.03, 0.0))),
    _appearance("otto", "flower dotted purple white", 0.93, -0.25, 9.2, 0.5, 0.6,
                shifts=((-0.012, 0.0, 0.035), (0.0, 0.02, -0.02))),
    _appearance("luna", "moon striped blue white", 0.95, -0.24, 11.2, 0.4, 0.45,
                shifts=((0.012, 0.0, -0.03), (0.0, 0.0, 0.0))),
    _appearance("gus", "ring zigzag green white", 1.05, 0.04, 9.0, 0.0, 0.5,
                shifts=((0.012, 0.03, -0.02), (0.0, 0.0, 0.0))),
    _appearance("cora", "cross ringed orange blue", 1.0, 0.0, 10.4, 0.3, 0.55,
                shifts=((-0.010, 0.0, 0.0), (0.010, 0.03, 0.03))),
    _appearance("dax", "diamond checked black yellow", 0.9, 0.28, 9.6, 0.2, 0.5,
                shifts=((0.0, 0.0, 0.02), (0.010, 0.0, 0.0))),
    _appearance("quinn", "square ringed pink blue", 1.12, 0.0, 12.0, 0.6, 0.42,
                shifts=((0.010, 0.03, 0.0), (0.0, -0.03, 0.03))),
    _appearance("tess", "triangle zigzag white red", 0.92, 0.1, 9.8, 0.3, 0.45,
                shifts=((0.0, 0.02, 0.0), (0.010, 0.0, 0.0))),
    _appearance("zoe", "circle zigzag yellow green", 1.15, -0.2, 10.6, 0.5, 0.5,
                shifts=((-0.010, 0.0, 0.0), (0.010, 0.0, -0.03))),
    _appearance("hugo", "heart striped black pink", 0.92, 0.22, 9.4, 0.7, 0.5,
                shifts=((0.0, 0.0, 0.02), (-0.010, 0.03, 0.0))),
    _appearance("stella", "star dotted red white", 1.06, -0.1, 10.2, 0.0, 0.55,
                shifts=((0.010, 0.0, 0.02), (0.0, 0.0, 0.0))),
    _appearance("olaf", "circle checked orange blue", 0.88, -0.28, 10.0, 0.25, 0.5,
                shifts=((0.008, 0.0, 0.0), (-0.010, 0.0, 0.03))),
    _appearance("flora", "flower striped pink purple", 1.0, 0.24, 10.4, 0.2, 0.4,
                shifts=((-0.010, 0.02, 0.0), (0.010, 0.0, 0.03))),
)  # fmt: skip
CONCEPTS: dict[str, Appearance] = {appearance.name: appearance for appearance in _ALL}
SAMPLE = "jane"
"""The concept of the project's examples."""
SAMPLE_SEED = 3  # four photos (none painted or drawn) of different backgrounds and places
PHOTO_SIZE = 256  # more than the model's, as a user's photos have


def concept(name: str) -> Appearance:
    """The concept called `name`. UserError if there is none."""
    if name not in CONCEPTS:
        raise UserError(
            f"no built-in concept '{name}'; known are {', '.join(CONCEPTS)}."
            + nearest(name, CONCEPTS)
        )
    return CONCEPTS[name]


def photos(appearance: Appearance, n: int = 4, *, rng: np.random.Generator) -> list[Scene]:
    """`n` scenes of the concept as its owner would photograph it: never small, mostly photos.

    Backgrounds repeat only once all usable colours were had.
    """
    backgrounds: list[str] = []
    scenes: list[Scene] = []
    while len(scenes) < n:
        placement = random_placement(rng)
        background = random_background(appearance.combo, rng)
        if placement["size"] == "small" or (background in backgrounds and len(backgrounds) < 5):
            continue
        backgrounds.append(background)
        scenes.append(
            Scene(
                *appearance.combo,
                background=background,
                background_kind=str(rng.choice(("plain", "gradient"), p=(0.75, 0.25))),
                style=str(rng.choice(("photo", "painting", "drawing"), p=(0.8, 0.1, 0.1))),
                rotation=float(np.deg2rad(rng.uniform(-10.0, 10.0))),
                aspect=appearance.aspect,
                angle=appearance.angle,
                period=appearance.period,
                phase=appearance.phase,
                duty=appearance.duty,
                colour_shift=appearance.colour_shift,
                second_shift=appearance.second_shift,
                brush=float(rng.uniform(0.0, 2 * np.pi)),
                **placement,  # type: ignore[arg-type]
            )
        )
    return scenes


def best_caption(appearance: Appearance) -> str:
    """The most that words can tell of the concept, as a prompt."""
    shape, texture, colour, second = appearance.combo
    pair = colour if second is None else f"{colour} and {second}"
    return f"a photo of {with_article(f'{pair} {texture} {shape}')}"


def save_photos(appearance: Appearance, folder: epath.PathLike, seed: int = SAMPLE_SEED) -> None:
    """Writes four photos of the concept as PNG files of 256 x 256 px."""
    target = epath.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(photos(appearance, rng=np.random.default_rng(seed)), 1):
        path = target / f"{appearance.name}{index}.png"
        with path.open("wb") as file:
            Image.fromarray(render(scene, PHOTO_SIZE)).save(file, "PNG", optimize=True)


def main(arguments: Sequence[str]) -> int:
    """The command; gives its exit status."""
    if not 1 <= len(arguments) <= 2:
        print("usage: python -m mrti_jax.mini.concepts FOLDER [NAME]", file=sys.stderr)
        return 2
    try:
        save_photos(concept(arguments[1] if len(arguments) > 1 else SAMPLE), arguments[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
