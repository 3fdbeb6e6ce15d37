# SPDX-License-Identifier: Apache-2.0
"""Pictures through the model's autoencoder and back: how well a perfect U-Net would draw them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling.loop import to_pixels


def round_trip(
    sd: StableDiffusion, images: UInt8[np.ndarray, "n h w 3"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """The pictures encoded to the posterior's mean and decoded."""

    @jax.jit
    def reconstruct(params: dict, pixels: jax.Array) -> jax.Array:
        vae = sd.vae.bind(params)
        mean, _ = jnp.split(vae.encode(pixels), 2, axis=-1)
        return to_pixels(vae.decode(mean))

    parts = [images[i : i + 50] for i in range(0, len(images), 50)]
    return np.concatenate(
        [
            np.asarray(reconstruct(sd.vae.params, part.astype(np.float32) / 127.5 - 1))
            for part in parts
        ]
    )
