# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded model's autoencoder on pictures of the world."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8

from mrti_jax.mini.fit import fit
from mrti_jax.mini.pictures import to_unit
from mrti_jax.mini.recipe import PICTURE_SIZE, VAE, Amounts
from mrti_jax.models.frozen import Frozen, Params, initialise
from mrti_jax.models.vae import AutoencoderKL

# Keeps the latents near a unit normal at the cost of about 0.1 dB.
KL_WEIGHT = 1e-4
# Progress depends on steps rather than pixels, so most steps see a quarter of each picture.
CROP = PICTURE_SIZE // 2


def build_vae(seed: int = 0) -> Frozen[AutoencoderKL]:
    """An untrained autoencoder in float32."""
    return initialise(VAE, lambda rngs: AutoencoderKL(VAE, dtype=jnp.float32, rngs=rngs), seed)


def train_vae(
    pictures: UInt8[np.ndarray, "n h w 3"], amounts: Amounts, folder: epath.Path
) -> Frozen[AutoencoderKL]:
    """Trains with squared error and a little KL (Kingma & Welling 2014, eq. 10)."""
    vae = build_vae()

    def loss(params: Params, x: Float[Array, "b h w 3"], key: Array, step: Array) -> Array:
        module = vae.bind(params)
        mean, log_variance = jnp.split(module.encode(x), 2, axis=-1)
        noise = jax.random.normal(key, mean.shape)
        decoded = module.decode(mean + jnp.exp(0.5 * log_variance) * noise)
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
        return jnp.mean((decoded - x) ** 2) + KL_WEIGHT * kl

    def batch(step: int) -> Float[np.ndarray, "b h w 3"]:
        rng = np.random.default_rng((1, step))
        chosen = pictures[rng.integers(len(pictures), size=amounts.vae_batch)]
        if step >= amounts.vae_steps - amounts.vae_full_steps:
            return to_unit(chosen)
        tops, lefts = rng.integers(pictures.shape[1] - CROP + 1, size=(2, len(chosen)))
        crops = [p[y : y + CROP, x : x + CROP] for p, y, x in zip(chosen, tops, lefts, strict=True)]
        return to_unit(np.stack(crops))

    fitted = fit(
        "vae", vae.params, loss, batch, steps=amounts.vae_steps, learning_rate=2e-3, folder=folder
    )
    return dataclasses.replace(vae, params=fitted)


def encode_pictures(
    vae: Frozen[AutoencoderKL], pictures: UInt8[np.ndarray, "n H W 3"], batch: int = 100
) -> Float[np.ndarray, "n h w m"]:
    """Moments of all pictures, float16 to fit in memory."""
    encode = jax.jit(lambda params, x: vae.bind(params).encode(x).astype(jnp.float16))
    parts = range(0, len(pictures), batch)
    return np.concatenate(
        [np.asarray(encode(vae.params, to_unit(pictures[i : i + batch]))) for i in parts]
    )


def unit_scale(
    vae: Frozen[AutoencoderKL], pictures: UInt8[np.ndarray, "n h w 3"]
) -> Frozen[AutoencoderKL]:
    """The autoencoder with the `scaling_factor` that gives latents unit variance."""
    moments = encode_pictures(vae, pictures[:2000])
    mean, log_variance = np.split(moments.astype(np.float32), 2, axis=-1)
    std = float(np.sqrt(mean.var() + np.exp(log_variance).mean()))
    config = dataclasses.replace(vae.config, scaling_factor=round(1.0 / std, 5))
    return dataclasses.replace(vae, config=config)
