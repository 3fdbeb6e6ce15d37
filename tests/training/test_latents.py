# SPDX-License-Identifier: Apache-2.0
"""Photos as the autoencoder sees them, and latents drawn from that."""

import jax.numpy as jnp
import numpy as np

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training.latents import encode_moments, sample_latents


def test_a_mirrored_photo_is_encoded_as_one_that_was_mirrored(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray]
) -> None:
    pixels = np.stack(pictures)
    own, mirrored = encode_moments(tiny_sd.vae, pixels, tiny_sd.mesh, flip=True)
    as_is = encode_moments(tiny_sd.vae, pixels, tiny_sd.mesh, flip=False)
    turned = encode_moments(tiny_sd.vae, pixels[:, :, ::-1], tiny_sd.mesh, flip=False)
    np.testing.assert_array_equal(own, as_is[0])
    np.testing.assert_array_equal(mirrored, turned[0])
    assert np.abs(own - mirrored).max() > 0.01


def test_the_autoencoder_sees_pixels_from_minus_one_to_one(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray]
) -> None:
    pixels = np.stack(pictures)
    moments = encode_moments(tiny_sd.vae, pixels, tiny_sd.mesh, flip=False)
    scaled = jnp.asarray(2 * pixels.astype(np.float32) / 255 - 1)
    expected = tiny_sd.vae.bind(tiny_sd.vae.params).encode(scaled)
    # float32, in another batch
    np.testing.assert_allclose(moments[0], expected, rtol=0, atol=1e-5)


def test_latents_have_the_mean_and_deviation_of_their_moments() -> None:
    rng = np.random.default_rng(0)
    mean, noise = rng.standard_normal((2, 3, 4, 4, 2)).astype(np.float32)
    deviation = np.float32(rng.uniform(0.1, 2, mean.shape))
    deviation[0, 0, 0] = np.exp([-40, 20])  # beyond what the log-variance may be
    clipped = np.clip(deviation, np.exp(-15), np.exp(10))
    moments = jnp.asarray(np.concatenate([mean, 2 * np.log(deviation)], axis=-1))
    latents = sample_latents(moments, jnp.asarray(noise), 0.2)
    expected = 0.2 * (mean + clipped * noise)
    np.testing.assert_allclose(latents, expected, rtol=1e-5, atol=1e-6)  # float32
