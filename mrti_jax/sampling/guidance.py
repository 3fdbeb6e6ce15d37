# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance, and at which steps it acts."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

EVERYWHERE = (0.0, 1.0)


def in_words(guidance_scale: float, guidance_interval: tuple[float, float]) -> str:
    """As captions and reports tell it: "guidance 3 from 0.2 to 1"."""
    lower, upper = guidance_interval
    where = "" if (lower, upper) == EVERYWHERE else f" from {lower:g} to {upper:g}"
    return f"guidance {guidance_scale:g}{where}"


def scales_of_steps(
    timesteps: Real[np.ndarray, "s"],
    num_train_timesteps: int,
    guidance_scale: float,
    guidance_interval: tuple[float, float],
) -> Float[np.ndarray, "s"]:
    """The guidance scale of each step, float32: 1, which is none, outside the interval of diffusion
    time (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Args:
        timesteps: of the S steps, from 0 to `num_train_timesteps`; Karras sigmas have fractions.
        guidance_interval: from and to which part of `num_train_timesteps`, 0 to 1. A step at its
            end is outside, unless that is 1.
    """
    lower, upper = (bound * num_train_timesteps for bound in guidance_interval)
    acts = (timesteps >= lower) & ((timesteps < upper) | (guidance_interval[1] == 1))
    return np.where(acts, guidance_scale, 1.0).astype(np.float32)


def guide(
    unconditional: Float[Array, "b h w c"],
    conditional: Float[Array, "b h w c"],
    scale: Float[Array, ""],
    rescale: Float[Array, ""],
) -> Float[Array, "b h w c"]:
    """The guided prediction (Ho & Salimans 2022, arXiv 2207.12598, eq. 6 with w = scale - 1),
    scaled back to the spread of the conditional one by the share `rescale` (Lin et al. 2023, arXiv
    2305.08891, eq. 15 and 16), 0 to 1. With a scale of 1 it is `conditional`, bit for bit."""
    guided = conditional + (scale - 1) * (conditional - unconditional)
    wanted, actual = (jnp.std(x, axis=(1, 2, 3), keepdims=True) for x in (conditional, guided))
    return guided * (1 + rescale * (wanted / jnp.maximum(actual, 1e-12) - 1))
