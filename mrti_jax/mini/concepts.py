# SPDX-License-Identifier: Apache-2.0
"""Ready-made concepts: held-out appearances with details that no words can describe.

Each has its own shades, proportions and texture details, drawn at random like everything in the
world but the same in all of its photos; placement, size, background and sometimes the style vary,
as in a user's handful of photos.

`python -m mrti_jax.mini.concepts FOLDER [NAME]` draws a concept's four photos; without a name those
of the sample concept, which ship in `mrti_jax/assets/concept`.
"""

import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from etils import epath
from PIL import Image

from mrti_jax.commands import run_command
from mrti_jax.errors import UserError, check_word
from mrti_jax.files import is_regular, list_folder, reporting, to_path, write_whole
from mrti_jax.flags import named
from mrti_jax.mini.world.caption import with_article
from mrti_jax.mini.world.combos import RESERVED, Combo
from mrti_jax.mini.world.render import render
from mrti_jax.mini.world.scene import Scene, random_background, random_details, random_placement


@dataclass(frozen=True)
class Appearance:
    """A named concept of the world: what words can describe, and details as fields of `Scene`."""

    name: str
    combo: Combo
    details: Mapping[str, float]


_SEED = 2
CONCEPTS: dict[str, Appearance] = {
    name: Appearance(name, combo, random_details(combo.colour, np.random.default_rng((_SEED, i))))
    for i, (name, combo) in enumerate(RESERVED.items())
}
SAMPLE = "jane"
"""The concept of the project's examples."""
SAMPLE_SEED = 41  # four photos (none painted or drawn), with different backgrounds and places
PHOTO_SIZE = 256  # larger than the model's pictures, like a user's photos


def concept(name: str) -> Appearance:
    """The concept called `name`. Raises UserError if there is none."""
    check_word("the built-in concept", name, tuple(CONCEPTS))
    return CONCEPTS[name]


def photos(appearance: Appearance, n: int = 4, *, rng: np.random.Generator) -> list[Scene]:
    """`n` scenes of the concept as its owner would photograph it: never small, mostly photos.

    Backgrounds repeat only once all usable colours have occurred.
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
                brush=float(rng.uniform(0.0, 2 * np.pi)),
                **appearance.details,  # type: ignore[arg-type, misc]
                **placement,  # type: ignore[arg-type]
            )
        )
    return scenes


def best_caption(appearance: Appearance) -> str:
    """The most that words can say about the concept, as a prompt."""
    shape, texture, colour = appearance.combo
    return f"a photo of {with_article(f'{colour} {texture} {shape}')}"


def save_photos(appearance: Appearance, folder: epath.PathLike, seed: int = SAMPLE_SEED) -> None:
    """Writes four photos of the concept as PNG files of 256 x 256 px. Raises UserError if they
    can't be written, or if the folder holds anything else: that would be learned with them."""
    target, files = to_path(folder), {}
    for index, scene in enumerate(photos(appearance, rng=np.random.default_rng(seed)), 1):
        png = io.BytesIO()
        Image.fromarray(render(scene, PHOTO_SIZE)).save(png, "PNG", optimize=True)
        files[f"{appearance.name}{index}.png"] = png.getvalue()
    for path in list_folder(target):
        with reporting(f"can't read {path}", path):
            ours = path.name in files and is_regular(path) and path.read_bytes() == files[path.name]
        if not ours:
            raise UserError(f"'{folder}' holds something else, {path.name}: name a new folder")
    for name, content in files.items():
        write_whole(target / name, content)


@dataclass(frozen=True)
class Flags:
    """Which concept to draw, and where to."""

    folder: tyro.conf.Positional[Annotated[str, named("FOLDER")]]
    """Where to write the photos."""
    name: tyro.conf.Positional[Annotated[str, named("[NAME]")]] = SAMPLE
    """jane, nell, otto, luna, gus, cora, dax, quinn, tess, zoe, hugo, stella, olaf or flora."""


def _draw(flags: Flags) -> None:
    appearance = concept(flags.name)
    save_photos(appearance, flags.folder)
    shape = appearance.combo[0]
    print(f"four photos of {flags.name} are in {flags.folder}; to learn it:")
    print(
        f"python -m mrti_jax.train --data.path {shlex.quote(flags.folder)} "
        f"--concept.name {flags.name} --concept.initializer {shape}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(
        Flags,
        _draw,
        argv,
        prog="python -m mrti_jax.mini.concepts",
        description="Draws four photos of a concept.",
    )


if __name__ == "__main__":
    sys.exit(main())
