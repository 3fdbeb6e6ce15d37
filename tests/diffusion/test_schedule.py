# SPDX-License-Identifier: Apache-2.0
"""The noise schedule and the meaning of predictions, by their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.diffusion.prediction import x0_and_epsilon

from .reference import PREDICTION_TYPES, SD15, draw, relative_error


def test_scaled_linear_cumulative_product():
    schedule = NoiseSchedule.from_config(SD15)
    betas = [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2 for i in range(1000)]
    product, want = 1.0, []
    for beta in betas:
        product *= 1 - beta
        want.append(product)
    assert schedule.num_train_timesteps == 1000
    # 1000 factors, each rounded to fp32.
    np.testing.assert_allclose(schedule.alphas_cumprod, want, rtol=3e-6)


def test_cosine_schedule():
    schedule = NoiseSchedule.from_config({"beta_schedule": "squaredcos_cap_v2"})
    t = np.array([9, 99, 499, 899])
    cosine = np.cos(((t + 1) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    want = cosine / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alphas_cumprod[t], want, rtol=1e-4)


def test_zero_terminal_snr():
    plain = NoiseSchedule.from_config(SD15)
    rescaled = NoiseSchedule.from_config(SD15 | {"rescale_betas_zero_snr": True})
    assert rescaled.alphas_cumprod[-1] == 0
    assert rescaled.noise_to_signal[-1] == pytest.approx(4096, rel=1e-6)
    np.testing.assert_allclose(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-6)
    assert np.all(np.diff(rescaled.alphas_cumprod) < 0)


def test_min_snr_counts_the_same_estimate_alike_whatever_is_predicted():
    """It is defined by the squared error of x_0, times min(SNR, 5)."""
    t = jnp.array([0, 100, 300, 600, 999])
    latents, noise = jnp.asarray(draw((5, 3, 3, 2))), jnp.asarray(draw((5, 3, 3, 2), seed=1))
    estimate = latents + 0.3 * jnp.asarray(draw((5, 3, 3, 2), seed=2))
    for prediction_type in PREDICTION_TYPES:
        schedule = NoiseSchedule.from_config(SD15 | {"prediction_type": prediction_type})
        alpha, sigma = (
            np.float32(x[t])[:, None, None, None] for x in (schedule.alpha, schedule.sigma)
        )
        noisy = schedule.add_noise(latents, noise, t)
        said = schedule.target(estimate, (noisy - alpha * estimate) / sigma, t)
        error = jnp.mean((said - schedule.target(latents, noise, t)) ** 2, (1, 2, 3))
        snr = (schedule.alpha[t] / schedule.sigma[t]) ** 2
        want = np.minimum(snr, 5) * np.mean((estimate - latents) ** 2, (1, 2, 3))
        weight = schedule.min_snr_weight(t, 5.0)
        # The noise is a difference of nearly equal numbers where sigma is 0.03 (t = 0).
        np.testing.assert_allclose(weight * error, want, rtol=1e-3)


def test_min_snr_is_finite_where_nothing_of_the_picture_is_left():
    config = SD15 | {"rescale_betas_zero_snr": True}
    weights = [
        NoiseSchedule.from_config(config | {"prediction_type": kind}).min_snr_weight(
            jnp.array(999), 5.0
        )
        for kind in PREDICTION_TYPES
    ]
    assert weights == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_says_what_was_put_in(prediction_type):
    schedule = NoiseSchedule.from_config(SD15 | {"prediction_type": prediction_type})
    latents, noise = jnp.asarray(draw((4, 3, 3, 2))), jnp.asarray(draw((4, 3, 3, 2), seed=1))
    t = jnp.array([0, 10, 500, 999])
    alpha, sigma = (
        jnp.float32(x[t])[:, None, None, None] for x in (schedule.alpha, schedule.sigma)
    )

    @jax.jit
    def round_trip(latents, noise, t):
        noisy = schedule.add_noise(latents, noise, t)
        said = schedule.target(latents, noise, t)
        return x0_and_epsilon(prediction_type, said, noisy, alpha, sigma)

    x0, epsilon = round_trip(latents, noise, t)
    # Division by alpha (0.07 at t = 999) or by sigma (0.03 at t = 0) costs up to two digits.
    assert relative_error(x0, latents) < 3e-5
    assert relative_error(epsilon, noise) < 3e-5


def test_scalar_timestep_bf16_latents_and_snr():
    schedule = NoiseSchedule.from_config(SD15)
    latents = jnp.ones((2, 3, 3, 2), jnp.bfloat16)
    noisy = schedule.add_noise(latents, jnp.zeros_like(latents), jnp.asarray(500))
    assert noisy.dtype == jnp.float32
    bar = float(schedule.alphas_cumprod[500])
    np.testing.assert_allclose(noisy, bar**0.5, rtol=1e-6)
    np.testing.assert_allclose(schedule.snr(jnp.array([500]))[0], bar / (1 - bar), rtol=1e-6)


def test_a_timestep_out_of_range_is_not_the_last_one():
    schedule = NoiseSchedule.from_config(SD15)
    assert np.isnan(schedule.snr(jnp.array([1000]))[0])
