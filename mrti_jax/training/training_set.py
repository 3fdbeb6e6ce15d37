# SPDX-License-Identifier: Apache-2.0
"""What one concept is trained on: the crops of its photos and their captions, on the host."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, UInt8

from mrti_jax.errors import warn
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import place, replicated
from mrti_jax.training.config import Config, TrainConfig
from mrti_jax.training.crops import sizes_of, spread
from mrti_jax.training.latents import check_moments, encode_moments
from mrti_jax.training.pictures import MAX_COLUMNS
from mrti_jax.training.prompts import Prompts, tokenize_captions
from mrti_jax.training.settings import fingerprint
from mrti_jax.training.step import Data
from mrti_jax.training.subject import Subject, read_photos


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """M squares and their K captions.

    Attributes:
        shown: the centre squares of the first photos, for people to look at.
        pixels: of the squares that are learned from.
        sizes: their `sizes` (see `Photo`), and with F = 2 those of the mirrored ones.
        names: the photo that each is of, for messages.
        prompts: their captions, tokenized.
    """

    shown: UInt8[np.ndarray, "p H W 3"]
    pixels: UInt8[np.ndarray, "m H W 3"]
    sizes: Int32[np.ndarray, "f m s"]
    names: list[str]
    prompts: Prompts

    @property
    def extent(self) -> tuple[int, int]:
        """Numbers of squares and of captions, M and K."""
        return len(self.pixels), len(self.prompts.ids)

    def fingerprints(self, *, sized: bool) -> dict[str, str]:
        """Short texts that differ where the squares or the captions do; `sized`: or the sizes."""
        photos = (self.pixels, self.sizes) if sized else (self.pixels,)
        return {"photos": fingerprint(*photos), "captions": fingerprint(*self.prompts)}

    def encode(
        self, sd: StableDiffusion, num_photos: int, num_captions: int, train: TrainConfig
    ) -> Data:
        """What the step trains on, padded to these numbers of squares and captions, with the seed
        and the number of updates in `train`.

        Raises UserError for a photo that the autoencoder can't encode.
        """
        moments = encode_moments(sd.vae, self.pixels, sd.mesh, flip=len(self.sizes) == 2)
        check_moments(moments, self.names)
        ids, vector_index, end, first, num = self.prompts
        on_host = (
            _fill_up(moments, num_photos, axis=1),
            _fill_up(self.sizes, num_photos, axis=1),
            *(_fill_up(array, num_captions) for array in (ids, vector_index, end)),
            *(_fill_up(array, num_photos) for array in (first, num)),
            np.uint32(train.seed),
            np.int32(train.steps),
        )
        return Data(*place(on_host, replicated(sd.mesh)))


def read_training_set(
    sd: StableDiffusion, subject: Subject, config: Config, size: int
) -> TrainingSet:
    """The subject's photos, as squares of `size` pixels, cut, captioned and flipped as `config`
    says.

    Raises UserError for photos or captions that can't be used.
    """
    data = config.data
    photos = read_photos(subject, size, data)
    crops = [crop for photo in photos for crop in spread(photo, data.crops)]
    if data.crops > 1 and len(crops) == len(photos):
        warn(f"the photos of <{subject.name}> are square: --data.crops {data.crops} has no effect")
    num_vectors = config.concept.num_vectors
    # Copies, or parts of one: not views of the photos, which would stay in memory as a whole.
    pixels = np.stack([crop.pixels for crop in crops])
    centres = pixels if data.crops == 1 else np.stack([photo.pixels for photo in photos])
    return TrainingSet(
        shown=centres[:MAX_COLUMNS],
        pixels=pixels,
        sizes=sizes_of(crops, flip=data.flip),
        names=[crop.name for crop in crops],
        prompts=tokenize_captions(crops, data.learnable_property, num_vectors, sd.tokenizers),
    )


def _fill_up(array: np.ndarray, length: int, axis: int = 0) -> np.ndarray:
    """The array with zeros at the end of an axis."""
    missing = [(0, 0)] * array.ndim
    missing[axis] = (0, length - array.shape[axis])
    return np.pad(array, missing)
