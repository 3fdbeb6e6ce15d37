# SPDX-License-Identifier: Apache-2.0
"""Photos of noise, for measurements that need no more than their number and size."""

import numpy as np

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training.config import Config
from mrti_jax.training.step import Data
from mrti_jax.training.subject import Subject
from mrti_jax.training.training_set import read_training_set

NUM_PHOTOS = 5


def random_photos(sd: StableDiffusion, config: Config, size: int) -> Data:
    """What a train step learns one concept from, with the templates."""
    shape = (NUM_PHOTOS, size, size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    subject = Subject(images=list(pixels), name="noise", initializer="red")
    read = read_training_set(sd, subject, config, size)
    return read.encode(sd, *read.extent, config.train)
