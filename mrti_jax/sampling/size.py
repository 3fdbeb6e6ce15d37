# SPDX-License-Identifier: Apache-2.0
"""The size of a picture, and what SDXL is told of it."""

import numpy as np
from jaxtyping import Int32

from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion


def picture_size(sd: StableDiffusion, height: int | None, width: int | None) -> tuple[int, int]:
    """The size to draw in pixels, the model's own where not given. Raises UserError."""
    factor = sd.vae.config.downscale
    own = sd.unet.config.sample_size * factor
    sizes = {"height": own if height is None else height, "width": own if width is None else width}
    for name, value in sizes.items():
        if value < 1 or value % factor:
            below = max(value // factor, 0) * factor
            near = f"{below} or {below + factor}" if below else str(factor)
            raise UserError(
                f"{name} {value} is not a multiple of {factor}, this model's pixels per latent: "
                f"take {near}"
            )
    return sizes["height"], sizes["width"]


def told_sizes(
    sd: StableDiffusion,
    size: tuple[int, int],
    original_size: tuple[int, int] | None,
    crop: tuple[int, int],
    target_size: tuple[int, int] | None,
) -> Int32[np.ndarray, "6"]:
    """What SDXL is told of the picture, as in `Photo.sizes`. Raises UserError."""
    told = (*(original_size or size), *crop, *(target_size or size))
    if sd.unet.config.pooled_dim is None and told != (*size, 0, 0, *size):
        raise UserError(
            f"model '{sd.name}' isn't told of original_size, crop and target_size, only SDXL is: "
            "leave them out"
        )
    if min(told) < 0:
        raise UserError(f"original_size, crop and target_size can't be negative: {told}")
    return np.asarray(told, np.int32)
