# SPDX-License-Identifier: Apache-2.0
"""Euler's method in the noise-to-signal ratio (Karras et al. 2022, arXiv 2206.00364)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from mrti_jax.diffusion.karras import karras_sigmas, timesteps_of
from mrti_jax.diffusion.samplers.sampler import FinalSigmasType, State
from mrti_jax.diffusion.samplers.sigma_space import SigmaSpace
from mrti_jax.diffusion.schedule import NoiseSchedule


class Steps(NamedTuple):
    """Per call, [S]: noise-to-signal ratio before and after, and 1 / sqrt(sigma^2 + 1)."""

    timesteps: Any  # fp32: "linspace" and Karras timesteps are fractions
    sigma: Any
    next_sigma: Any
    input_scale: Any


@dataclass(frozen=True, kw_only=True)
class Euler(SigmaSpace):
    """Algorithm 2 with Euler steps and no churn."""

    use_karras_sigmas: bool = False
    final_sigmas_type: FinalSigmasType = "zero"

    only: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "use_exponential_sigmas": False,
            "use_beta_sigmas": False,
            "interpolation_type": "linear",
            "timestep_type": "discrete",
            "sigma_min": None,
            "sigma_max": None,
        }
    )

    def plan(self, schedule: NoiseSchedule, num_steps: int) -> Steps:
        timesteps, sigmas = self.interpolated(schedule, num_steps)
        if self.use_karras_sigmas:
            sigmas = karras_sigmas(sigmas[0], sigmas[-1], num_steps)
            timesteps = timesteps_of(sigmas, schedule.noise_to_signal)
        last = 0.0 if self.final_sigmas_type == "zero" else schedule.noise_to_signal[0]
        following = np.append(sigmas[1:], last)
        input_scale = (sigmas**2 + 1) ** -0.5
        return Steps(*np.array([timesteps, sigmas, following, input_scale], np.float32))

    def update(
        self,
        state: State,
        prediction: Float[Array, "*shape"],
        step: Steps,
        noise: Float[Array, "*shape"] | None = None,
    ) -> State:
        x0, epsilon = self.estimates(state.latents, prediction, step)
        # = x + (next_sigma - sigma) epsilon, but precise even where sigma is in the thousands.
        return State(x0 + step.next_sigma * epsilon)
