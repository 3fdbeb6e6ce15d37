# SPDX-License-Identifier: Apache-2.0
"""The embedded model's noise schedule: that of Stable Diffusion, bent.

Latents of 16 x 16 hold a sixteenth of what those of 64 x 64 do, so the same noise hides more of a
picture (Hoogeboom et al. 2023, arXiv 2301.11093, section 2.1): with the plain schedule the last two
of ten buckets would say nothing about a concept. At time u in [0, 1] this one has the noise that
Stable Diffusion has at w(u) = 5/7 u + 2/7 u^5: less noise, except at the ends.
"""

import numpy as np
from jaxtyping import Float64

from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.models.stored.families import SCHEDULE as STABLE_DIFFUSION

_BEND = 2 / 7
_POWER = 5


def trained_betas() -> list[float]:
    """The betas of timesteps 0 .. T - 1, T as in Stable Diffusion's, in six digits."""
    plain = NoiseSchedule.from_config(STABLE_DIFFUSION).alphas_cumprod.astype(np.float64)
    times = np.arange(len(plain) + 1) / len(plain)
    # -log alpha_cumprod at time 0, 1/T, ..., 1: the noise added so far.
    added = np.interp(_bent(times), times, np.append(0.0, -np.log(plain)))
    return [float(f"{beta:.6g}") for beta in 1 - np.exp(-np.diff(added))]


def _bent(times: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """w(u)"""
    return (1 - _BEND) * times + _BEND * times**_POWER
