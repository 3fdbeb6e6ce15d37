# SPDX-License-Identifier: Apache-2.0
"""Base of samplers whose latents are x_0 + sigma epsilon, sigma being the noise-to-signal ratio."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from mrti_jax.diffusion.prediction import x0_and_epsilon
from mrti_jax.diffusion.samplers.sampler import Sampler, State
from mrti_jax.diffusion.schedule import NoiseSchedule
from mrti_jax.diffusion.timesteps import TimestepSpacing, spaced_timesteps


@dataclass(frozen=True, kw_only=True)
class SigmaSpace(Sampler):
    """Karras et al. 2022 (arXiv 2206.00364) with s = 1; the network sees unit variance.

    The steps have `sigma` and `input_scale`, 1 / sqrt(sigma^2 + 1).
    """

    timestep_spacing: TimestepSpacing = "linspace"

    def init_noise_sigma(self, steps: Any) -> Any:
        """As in the reference: of the noisy latents for "leading", else of the noise."""
        first = steps.sigma[0]
        return jnp.sqrt(first**2 + 1) if self.timestep_spacing == "leading" else first

    def model_input(self, state: State, step: Any) -> Float[Array, "..."]:
        return step.input_scale * state.latents

    def interpolated(
        self, schedule: NoiseSchedule, num_steps: int
    ) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Decreasing, fractional timesteps and their noise-to-signal ratios; raises UserError."""
        total = schedule.num_train_timesteps
        timesteps = spaced_timesteps(self.timestep_spacing, total, num_steps, self.steps_offset)
        return timesteps, np.interp(timesteps, np.arange(total), schedule.noise_to_signal)

    def estimates(
        self, latents: Float[Array, "*shape"], prediction: Float[Array, "*shape"], step: Any
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """The estimates (x_0, epsilon). epsilon is also the slope dx/dsigma = (x - x_0) / sigma
        (eq. 4)."""
        alpha = step.input_scale
        return x0_and_epsilon(
            self.prediction_type, prediction, alpha * latents, alpha, alpha * step.sigma
        )
