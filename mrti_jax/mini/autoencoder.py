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

# Keeps the latents near their prior at the cost of about 0.5 dB.
KL_WEIGHT = 3e-3
# The prior's variance falls with the frequency (in parts of the highest) to that of details: noise
# then hides the details of a drawing long before it hides outlines and colours.
LAYOUT_VARIANCE, DETAIL_VARIANCE = 80.0, 1 / 64
DECAY = 16.0
# Standard deviation of the noise added to latents, so that the decoder draws less grain from those
# of the U-Net, which are never exact.
LATENT_ERROR = 0.05
# Progress depends on steps rather than pixels, so most steps see a quarter of each picture.
CROP = PICTURE_SIZE // 2


def build_vae(seed: int = 0) -> Frozen[AutoencoderKL]:
    """An untrained autoencoder in float32."""
    return initialise(VAE, lambda rngs: AutoencoderKL(VAE, dtype=jnp.float32, rngs=rngs), seed)


def prior_variance(height: int, width: int) -> Float[np.ndarray, "h w"]:
    """The prior's variance of each frequency of the latents (before `scaling_factor`), as `dctn`
    orders them."""
    rows, columns = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    layout = LAYOUT_VARIANCE * np.exp(-DECAY * np.hypot(rows, columns))
    return np.maximum(layout, DETAIL_VARIANCE)


def kl_divergence(
    mean: Float[Array, "b h w c"], log_variance: Float[Array, "b h w c"]
) -> Float[Array, ""]:
    """KL divergence, per latent, of independent normals from the prior, which is normal with mean
    zero and `prior_variance` (Kingma & Welling 2014, appendix B, for other priors than the unit
    normal).

    Every latent's variance is taken to have its even share of all frequencies.
    """
    prior = prior_variance(*mean.shape[1:3])
    spectrum = jax.scipy.fft.dctn(mean, axes=(1, 2), norm="ortho")
    squares = jnp.mean(spectrum**2 / prior[..., None])
    variances = np.mean(1 / prior) * jnp.exp(log_variance) - log_variance
    return 0.5 * (squares + jnp.mean(variances) + np.mean(np.log(prior)) - 1.0)


def sample_latents(
    mean: Float[Array, "b h w c"], log_variance: Float[Array, "b h w c"], key: Array
) -> Float[Array, "b h w c"]:
    """What a decoder is trained on: latents of these moments, with some error."""
    std = jnp.sqrt(jnp.exp(log_variance) + LATENT_ERROR**2)
    return mean + std * jax.random.normal(key, mean.shape)


def train_vae(
    pictures: UInt8[np.ndarray, "n h w 3"], amounts: Amounts, folder: epath.Path
) -> Frozen[AutoencoderKL]:
    """Trains with squared error and a little KL (Kingma & Welling 2014, eq. 10)."""
    vae = build_vae()

    def loss(params: Params, x: Float[Array, "b h w 3"], key: Array, step: Array) -> Array:
        module = vae.bind(params)
        mean, log_variance = jnp.split(module.encode(x), 2, axis=-1)
        decoded = module.decode(sample_latents(mean, log_variance, key))
        error = jnp.mean((decoded - x) ** 2)
        return error + KL_WEIGHT * kl_divergence(mean, log_variance)

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
