# SPDX-License-Identifier: Apache-2.0
"""The embedded model's noise schedule, and a U-Net that changes schedules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.mini.recipe import SCHEDULER
from mrti_jax.mini.retime import retimed
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.stored.families import SCHEDULE as STABLE_DIFFUSION
from mrti_jax.parallel.mesh import make_mesh

BENT = NoiseSchedule.from_config(SCHEDULER)
PLAIN = NoiseSchedule.from_config(STABLE_DIFFUSION)


def test_the_schedule_is_stable_diffusion_s_at_a_bent_time() -> None:
    # w(u) = 5/6 u + 1/6 u^16: at both ends the same; w(0.9) = 0.7809, w(0.5) = 0.4167
    for timestep, plain in ((899, 780), (499, 416), (999, 999)):
        ours, theirs = np.log(BENT.alphas_cumprod[timestep]), np.log(PLAIN.alphas_cumprod)
        assert theirs[plain] * 1.005 < ours < theirs[plain - 1] * 0.995, timestep


def test_a_retimed_unet_says_the_same_at_the_same_noise() -> None:
    unet = StableDiffusion.load("mini", mesh=make_mesh(jax.devices()[:1])).unet
    swapped = retimed(unet, BENT, PLAIN)
    assert swapped.params["conv_in"] is unet.params["conv_in"]
    ours = jnp.arange(20, 1000, 70)
    theirs = np.interp(BENT.noise_to_signal[ours], PLAIN.noise_to_signal, np.arange(1000.0))
    keys = jax.random.split(jax.random.key(0))
    latents = jax.random.normal(keys[0], (len(ours), 16, 16, 4))
    context = jax.random.normal(keys[1], (len(ours), 7, unet.config.cross_attention_dim))
    said = unet.bind(unet.params)(latents, ours, context)
    again = swapped.bind(swapped.params)(latents, jnp.asarray(theirs, jnp.float32), context)
    # The fit leaves 2 % of the embedding's variation.
    assert jnp.sqrt(jnp.mean((said - again) ** 2) / jnp.mean(said**2)) < 0.03
    unfitted = unet.bind(unet.params)(latents, jnp.asarray(theirs, jnp.float32), context)
    assert jnp.sqrt(jnp.mean((said - unfitted) ** 2) / jnp.mean(said**2)) > 0.1


def test_a_unet_of_the_same_schedule_stays_as_it_is() -> None:
    unet = StableDiffusion.load("mini").unet
    assert retimed(unet, BENT, dataclasses.replace(BENT)) is unet
