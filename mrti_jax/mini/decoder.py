# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded model's decoder further, for latents that stay as they are."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8

from mrti_jax.mini.autoencoder import sample_latents
from mrti_jax.mini.fit import fit
from mrti_jax.mini.pictures import to_unit
from mrti_jax.mini.recipe import Amounts
from mrti_jax.models.frozen import Frozen, Params
from mrti_jax.models.vae import AutoencoderKL

# Textures of objects are what the decoder draws least well.
OBJECT_WEIGHT = 4.0
PARTS = ("decoder", "post_quant_conv")


class Batch(NamedTuple):
    """Pictures in [-1, 1], how much each pixel counts, and the pictures' moments."""

    pictures: Float[np.ndarray, "b h w 3"]
    weights: Float[np.ndarray, "b h w"]
    moments: Float[np.ndarray, "b y x m"]


def train_decoder(
    vae: Frozen[AutoencoderKL],
    pictures: UInt8[np.ndarray, "n h w 3"],
    masks: UInt8[np.ndarray, "n h w"],
    moments: Float[np.ndarray, "n y x m"],
    amounts: Amounts,
    folder: epath.Path,
) -> Frozen[AutoencoderKL]:
    """Squared error of pictures in [-1, 1], weighted more inside the object (`masks`, 0 to 255).

    `moments`: means and log variances of the pictures' latents; as the encoder stays, a U-Net
    trained on them needs no further training. The decoder of the `vae` given is used up.
    """
    encoder = {name: part for name, part in vae.params.items() if name not in PARTS}

    def loss(params: Params, batch: Batch, key: Array, step: Array) -> Array:
        mean, log_variance = jnp.split(batch.moments.astype(jnp.float32), 2, axis=-1)
        latents = sample_latents(mean, log_variance, key)
        error = (vae.bind(encoder | params).decode(latents) - batch.pictures) ** 2
        return jnp.sum(batch.weights * error.mean(-1)) / jnp.sum(batch.weights)

    def batch(step: int) -> Batch:
        chosen = np.random.default_rng((4, step)).integers(
            len(pictures), size=amounts.decoder_batch
        )
        weights = 1.0 + (OBJECT_WEIGHT - 1.0) * masks[chosen].astype(np.float32) / 255.0
        return Batch(to_unit(pictures[chosen]), weights, moments[chosen])

    fitted = fit(
        "decoder",
        {name: vae.params[name] for name in PARTS},
        loss,
        batch,
        steps=amounts.decoder_steps,
        learning_rate=1e-3,
        folder=folder,
    )
    return dataclasses.replace(vae, params=encoder | fitted)
