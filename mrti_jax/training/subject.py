# SPDX-License-Identifier: Apache-2.0
"""What a concept is learned from: photos of a subject, its name, and a word to start from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from mrti_jax.concept.prompt import check_name
from mrti_jax.errors import UserError, shown, warn
from mrti_jax.files import to_path
from mrti_jax.training.config import SAMPLE, TFDS_PREFIX, DataConfig, is_folder_path
from mrti_jax.training.folder import check_apart
from mrti_jax.training.images import Photo, find_images, from_arrays, read_folder
from mrti_jax.training.tfds_source import read_tfds

Images: TypeAlias = (
    epath.PathLike | Image.Image | Sequence[UInt8[np.ndarray, "_ _ 3"] | Image.Image]
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of the subjects that `learn_many` learns words for.

    `images`, `name`, `initializer` and `out` are as in `learn`; `learnable_property` and `captions`
    are those of the run's settings if not given.
    """

    images: Images
    name: str
    initializer: str
    learnable_property: Literal["object", "style"] | None = None
    captions: bool | None = None
    out: epath.PathLike | None = None

    @property
    def path(self) -> str | None:
        """Where the images are; None if they are in memory."""
        return str(self.images) if isinstance(self.images, str | os.PathLike) else None

    def check(self, *, restart: bool) -> None:
        """Raises UserError for a name or an initializer that can't be one, a folder without images,
        and one that holds `out` or that `restart` would move away; reads no image."""
        for what, word in (("name", self.name), ("initializer", self.initializer)):
            if not isinstance(word, str):
                raise UserError(f"the {what} is {shown(word)}, but must be a word")
        check_name(self.name)
        if self.path is not None and is_folder_path(self.path):
            find_images(to_path(self.path))
            if self.out is not None:
                check_apart(self.out, self.path, restart=restart)


def read_photos(subject: Subject, size: int, data: DataConfig) -> list[Photo]:
    """The photos as squares of `size` pixels, with their captions if `data` asks for them.

    Warns of photos that are the same, of a single one, and of those without a caption. Raises
    UserError if there are no photos, and if captions are asked for and there are none.
    """
    photos = _read(subject, size, data)
    different = len({photo.pixels.tobytes() for photo in photos})
    if different < len(photos):
        warn(
            f"only {different} of the {len(photos)} images are distinct: <{subject.name}> is "
            "learned from what different images have in common"
        )
    elif len(photos) == 1 and data.crops == 1:
        warn(
            f"there is only one image, so <{subject.name}> also learns its background and where "
            "things are in it: three to five are better"
        )
    if data.captions:
        if subject.path is None or not is_folder_path(subject.path):
            raise UserError(
                f"captions are asked for, but only folders of images have them, not those of "
                f"<{subject.name}>: leave out --data.captions"
            )
        _check_captions(photos, subject.name)
    return photos


def _check_captions(photos: Sequence[Photo], name: str) -> None:
    missing = [photo.name for photo in photos if not photo.captions]
    if len(missing) == len(photos):
        raise UserError(
            f"captions are asked for, but none of <{name}>'s images has one: write `photo.txt` "
            "next to `photo.png`, or leave out --data.captions"
        )
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        warn(
            f"{len(missing)} of <{name}>'s images have no caption and are trained with templates: "
            f"{shown}"
        )


def _read(subject: Subject, size: int, data: DataConfig) -> list[Photo]:
    path = subject.path
    if path is None:
        return from_arrays(subject.images, size)
    if path.startswith(TFDS_PREFIX):
        return read_tfds(path, size, data_dir=data.tfds_dir)
    if path == SAMPLE:
        if to_path(path).is_dir():
            warn(
                f"'{path}' is the concept that ships with mrti_jax: for your folder of that name, "
                f"write ./{path}"
            )
        path = str(epath.resource_path("mrti_jax") / "assets" / "concept")
    return read_folder(path, size, caption_word=subject.name if data.captions else None)
