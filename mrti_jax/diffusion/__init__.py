# SPDX-License-Identifier: Apache-2.0
"""Diffusion as formulas: noise schedule, training targets, samplers. Knows no models or prompts."""

from mrti_jax.diffusion.samplers import (
    SAMPLERS,
    check_sampler,
    make_sampler,
    own_sampler,
)
from mrti_jax.diffusion.samplers.sampler import Sampler
from mrti_jax.diffusion.schedule import NoiseSchedule

__all__ = [
    "SAMPLERS",
    "NoiseSchedule",
    "Sampler",
    "check_sampler",
    "make_sampler",
    "own_sampler",
]
