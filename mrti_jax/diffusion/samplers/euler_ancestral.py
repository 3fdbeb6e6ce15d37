# SPDX-License-Identifier: Apache-2.0
"""Euler's method with ancestral noise: every step overshoots and adds fresh noise."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from mrti_jax.diffusion.samplers.sampler import State
from mrti_jax.diffusion.samplers.sigma_space import SigmaSpace
from mrti_jax.diffusion.schedule import NoiseSchedule


class Steps(NamedTuple):
    """Per call, [S]: noise-to-signal ratios (sigma_down^2 + sigma_up^2 is the next one's square)
    and 1 / sqrt(sigma^2 + 1)."""

    timesteps: Any  # fp32: "linspace" timesteps are fractions
    sigma: Any
    sigma_down: Any
    sigma_up: Any
    input_scale: Any


@dataclass(frozen=True, kw_only=True)
class EulerAncestral(SigmaSpace):
    """The posterior of DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 7) in the latents
    x_0 + sigma epsilon: the same distribution as DDIM's with eta 1."""

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, schedule: NoiseSchedule, num_steps: int) -> Steps:
        timesteps, sigma = self.interpolated(schedule, num_steps)
        following = np.append(sigma[1:], 0.0)
        sigma_up = following * np.sqrt(1 - (following / sigma) ** 2)
        sigma_down = following**2 / sigma
        input_scale = (sigma**2 + 1) ** -0.5
        return Steps(*np.array([timesteps, sigma, sigma_down, sigma_up, input_scale], np.float32))

    def update(
        self,
        state: State,
        prediction: Float[Array, "*shape"],
        step: Steps,
        noise: Float[Array, "*shape"] | None = None,
    ) -> State:
        assert noise is not None, "a stochastic sampler needs noise"
        x0, epsilon = self.estimates(state.latents, prediction, step)
        return State(x0 + step.sigma_down * epsilon + step.sigma_up * noise)
