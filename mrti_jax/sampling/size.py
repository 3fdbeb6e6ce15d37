# SPDX-License-Identifier: Apache-2.0
"""The size of a picture, and what SDXL is told about it."""

import numpy as np
from jaxtyping import Int32

from mrti_jax.errors import UserError, whole
from mrti_jax.models.stable_diffusion import StableDiffusion

MAX_SIDE = 2**16  # int32 counts the latents of such a picture
MAX_SIZE = 2**31 - 1  # what SDXL is told is int32


def picture_side(sd: StableDiffusion, name: str, value: int | None) -> int:
    """Pixels along a side of a picture, the model's own if not given.

    Raises UserError, which calls it `name`, unless it is a multiple of the autoencoder's factor and
    no larger than any picture.
    """
    factor = sd.vae.config.downscale
    if value is None:
        return sd.unet.config.sample_size * factor
    value = whole(name, value)
    if value < 1 or value % factor:
        below = max(value // factor, 0) * factor
        near = f"{below} or {below + factor}" if below else str(factor)
        raise UserError(
            f"{name} {value} is not a multiple of {factor}, this model's pixels per latent: use "
            f"{near}"
        )
    if value > MAX_SIDE:
        raise UserError(f"{name} {value} is larger than any picture: use at most {MAX_SIDE}")
    return value


def told_sizes(
    sd: StableDiffusion,
    size: tuple[int, int],
    original_size: tuple[int, int] | None,
    crop: tuple[int, int],
    target_size: tuple[int, int] | None,
) -> Int32[np.ndarray, "6"]:
    """What SDXL is told about the picture, as in `Photo.sizes`. Raises UserError."""
    told = (*(original_size or size), *crop, *(target_size or size))
    if sd.unet.config.pooled_dim is None and (original_size or any(crop) or target_size):
        raise UserError(
            "only SDXL takes an original size, a crop and a target size, not model "
            f"'{sd.source.name}': leave them out"
        )
    if min(told) < 0:
        raise UserError(f"original size, crop and target size can't be negative: {told}")
    if max(told) > MAX_SIZE:
        raise UserError(
            f"original size, crop and target size must be at most {MAX_SIZE}, not {max(told)}"
        )
    return np.asarray(told, np.int32)
