# SPDX-License-Identifier: Apache-2.0
"""A U-Net for one noise schedule, made into one for another.

What the U-Net says depends on the noisy latents and on the embedding of the timestep. With a
timestep's embedding that of the old timestep of the same noise, it says the same.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.models.frozen import Frozen, Params
from mrti_jax.models.unet import UNet2DConditionModel

STEPS = 5_000
LEARNING_RATE = 1e-2


def retimed(
    unet: Frozen[UNet2DConditionModel], old: NoiseSchedule, new: NoiseSchedule
) -> Frozen[UNet2DConditionModel]:
    """`unet`, trained with the schedule `old`, for the schedule `new`: its time embedding is
    fitted anew; the same `unet` if they are equal.

    Noise that `old` doesn't reach is taken for its nearest.
    """
    if np.array_equal(old.alphas_cumprod, new.alphas_cumprod):
        return unet
    same_noise = np.interp(
        np.log(new.noise_to_signal),
        np.log(old.noise_to_signal),
        np.arange(old.num_train_timesteps),
    )
    fitted = _fit(unet, jnp.asarray(same_noise, jnp.float32))
    return dataclasses.replace(unet, params=unet.params | {"time_embedding": fitted})


def _fit(unet: Frozen[UNet2DConditionModel], same_noise: Float[Array, " T"]) -> Params:
    """The time embedding that gives timesteps 0 .. T - 1 what `unet`'s gives `same_noise`."""
    timesteps = jnp.arange(len(same_noise), dtype=jnp.float32)

    def embed(fitted: Params, timesteps: Float[Array, " T"]) -> Float[Array, "T e"]:
        return unet.bind(unet.params | {"time_embedding": fitted}).embed_time(timesteps)

    tx = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))

    @jax.jit
    def fit(before: Params) -> Params:
        wanted = embed(before, same_noise)

        def error(fitted: Params) -> Float[Array, ""]:
            return jnp.mean(jnp.square(embed(fitted, timesteps) - wanted))

        def step(_: Array, carry: tuple[Params, optax.OptState]) -> tuple[Params, optax.OptState]:
            fitted, state = carry
            updates, state = tx.update(jax.grad(error)(fitted), state)
            return optax.apply_updates(fitted, updates), state

        return jax.lax.fori_loop(0, STEPS, step, (before, tx.init(before)))[0]

    return fit(unet.params["time_embedding"])
