# SPDX-License-Identifier: Apache-2.0
"""What the diffusion tests share: real configs, a toy network twice, and a loop over a sampler."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from mrti_jax.diffusion import NoiseSchedule, make_sampler
from mrti_jax.diffusion.prediction import PredictionType

PREDICTION_TYPES = get_args(PredictionType)
SD15 = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SD21 = SD15 | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}


def toy_network(np_like, latents, timestep):
    """A fixed nonlinear function of latents and time, for numpy, torch or jax.numpy."""
    mixed = 0.6 * latents + 0.3 * np_like.roll(latents, 1, 1) - 0.2 * np_like.roll(latents, 1, 2)
    return np_like.tanh(mixed + 0.3 * np_like.sin(timestep * 0.007)) + 0.2 * latents


def draw(shape=(2, 6, 5, 4), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sample(config, name, count, network, noise, fresh=None, **options):
    """All of a sampler's steps in one jitted scan: final latents, all latents, the plan."""
    schedule = NoiseSchedule.from_config(config)
    sampler = make_sampler(name, config, **options)
    steps = sampler.plan(schedule, count)
    if fresh is None:
        fresh = np.zeros((len(steps.timesteps), *noise.shape), np.float32)

    @jax.jit
    def run(noise, steps, fresh):
        def call(state, xs):
            step, noise = xs
            latents = sampler.model_input(state, step)
            prediction = network(latents, step.timesteps.astype(jnp.float32))
            state = sampler.update(state, prediction, step, noise if sampler.stochastic else None)
            return state, state.latents

        state, trail = jax.lax.scan(call, sampler.initialize(noise, steps), (steps, fresh))
        return sampler.finalize(state), trail

    latents, trail = run(jnp.asarray(noise), steps, jnp.asarray(fresh))
    return np.asarray(latents), np.asarray(trail), steps


def relative_error(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return np.abs(got - want).max() / np.abs(want).max()
