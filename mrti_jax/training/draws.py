# SPDX-License-Identifier: Apache-2.0
"""What is random about a training example, as a function of (seed, step, example) alone.

So it is the same on any number of devices, in any split of a batch, and after any resume.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

# 2**32 / golden ratio: its multiples are the most evenly spread sequence of fractions.
GOLDEN = 2654435769
TIME_BITS = 20


class Draws(NamedTuple):
    """Of B examples: the photo, whether mirrored, the caption, the timestep, and the two noises
    (of the latents within their moments, and of the diffusion), standard normal, float32."""

    photo: Int[Array, "b"]
    mirrored: Bool[Array, "b"]
    prompt: Int[Array, "b"]
    timestep: Int[Array, "b"]
    latent_noise: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]


def draw(
    seed: UInt32[Array, ""],
    step: Int[Array, ""],
    index: Int[Array, "b"],
    *,
    batch_size: int,
    latent_shape: tuple[int, int, int],
    num_train_timesteps: int,
    timesteps: Literal["uniform", "stratified"],
    flip: bool,
    first_prompt: Int[Array, "m"],
    num_prompts: Int[Array, "m"],
) -> Draws:
    """Draws the examples `index` (0 .. batch_size - 1) of the update `step`.

    Photos come in shuffled epochs; photo m has the `num_prompts[m]` captions from
    `first_prompt[m]` on, each equally likely, and at least one: photos at the end without any only
    fill the arrays, and change nothing. "stratified" timesteps run through the multiples of
    the golden ratio, so that every stretch of examples is spread evenly over time.
    """
    photo_key, time_key, example_key = jax.random.split(jax.random.key(seed), 3)
    step_key = jax.random.fold_in(example_key, step)
    start = jax.random.bits(time_key, dtype=jnp.uint32)
    is_photo = num_prompts > 0
    num_photos = jnp.sum(is_photo, dtype=jnp.int32)

    def one(index: Int[Array, ""]) -> Draws:
        number = step * batch_size + index
        keys = jax.random.split(jax.random.fold_in(step_key, index), 5)
        epoch_key = jax.random.fold_in(photo_key, number // num_photos)
        # jax.random.permutation would need their number to be static, and shuffle the rest as well.
        order = jax.random.bits(jax.random.split(epoch_key)[1], is_photo.shape)
        order = jnp.where(is_photo, order, jnp.uint32(2**32 - 1))
        photo = jnp.argsort(order, stable=True)[number % num_photos]
        if timesteps == "uniform":
            time = jax.random.randint(keys[0], (), 0, num_train_timesteps)
        else:
            bits = min(TIME_BITS, 32 - (num_train_timesteps - 1).bit_length())  # products fit
            fraction = (start + number.astype(jnp.uint32) * jnp.uint32(GOLDEN)) >> (32 - bits)
            time = ((fraction * num_train_timesteps) >> bits).astype(jnp.int32)
        return Draws(
            photo=photo,
            mirrored=jax.random.bernoulli(keys[1]) & flip,
            prompt=first_prompt[photo]
            + jax.random.randint(keys[2], (), 0, num_prompts[photo], dtype=jnp.int32),
            timestep=time,
            latent_noise=jax.random.normal(keys[3], latent_shape),
            noise=jax.random.normal(keys[4], latent_shape),
        )

    return jax.vmap(one)(index)
