# SPDX-License-Identifier: Apache-2.0
"""Euler's method in the noise-to-signal ratio (Karras et al. 2022, arXiv 2206.00364)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from mrti_jax.diffusion.karras import karras_sigmas, timesteps_of
from mrti_jax.diffusion.prediction import PredictionType, x0_and_epsilon
from mrti_jax.diffusion.samplers.sampler import FinalSigmasType, Sampler, State
from mrti_jax.diffusion.schedule import NoiseSchedule
from mrti_jax.diffusion.timesteps import TimestepSpacing, spaced_timesteps


class Steps(NamedTuple):
    """Per call, [S]: noise-to-signal ratio before and after, and 1 / sqrt(sigma^2 + 1)."""

    timesteps: Any  # fp32: "linspace" and Karras timesteps are fractions
    sigma: Any
    next_sigma: Any
    input_scale: Any


def start_sigma(steps: Any, spacing: TimestepSpacing) -> Any:
    """The reference's `init_noise_sigma`: of the noisy latents for "leading", else of the noise."""
    return jnp.sqrt(steps.sigma[0] ** 2 + 1) if spacing == "leading" else steps.sigma[0]


def estimates(
    prediction_type: PredictionType,
    latents: Float[Array, "*shape"],
    prediction: Float[Array, "*shape"],
    step: Any,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The estimates (x_0, epsilon) where the latents are x_0 + sigma epsilon. epsilon is also the
    slope dx/dsigma = (x - x_0) / sigma (eq. 4 with s = 1)."""
    alpha = step.input_scale
    return x0_and_epsilon(prediction_type, prediction, alpha * latents, alpha, alpha * step.sigma)


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """Algorithm 2 with Euler steps and no churn. The latents are x_0 + sigma epsilon, and
    scaled to unit variance for the network."""

    timestep_spacing: TimestepSpacing = "linspace"
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
        timesteps, sigmas = interpolated(
            schedule, self.timestep_spacing, num_steps, self.steps_offset
        )
        if self.use_karras_sigmas:
            sigmas = karras_sigmas(sigmas[0], sigmas[-1], num_steps)
            timesteps = timesteps_of(sigmas, schedule.noise_to_signal)
        last = 0.0 if self.final_sigmas_type == "zero" else schedule.noise_to_signal[0]
        following = np.append(sigmas[1:], last)
        input_scale = (sigmas**2 + 1) ** -0.5
        return Steps(*np.array([timesteps, sigmas, following, input_scale], np.float32))

    def init_noise_sigma(self, steps: Steps) -> Any:
        return start_sigma(steps, self.timestep_spacing)

    def model_input(self, state: State, step: Steps) -> Float[Array, "..."]:
        return step.input_scale * state.latents

    def update(
        self,
        state: State,
        prediction: Float[Array, "*shape"],
        step: Steps,
        noise: Float[Array, "*shape"] | None = None,
    ) -> State:
        x0, epsilon = estimates(self.prediction_type, state.latents, prediction, step)
        # = x + (next_sigma - sigma) epsilon, but keeps its digits where sigma is in the thousands.
        return State(x0 + step.next_sigma * epsilon)


def interpolated(
    schedule: NoiseSchedule, spacing: TimestepSpacing, num_steps: int, offset: int
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Falling, fractional timesteps and their noise-to-signal ratios."""
    total = schedule.num_train_timesteps
    timesteps = spaced_timesteps(spacing, total, num_steps, offset)
    return timesteps, np.interp(timesteps, np.arange(total), schedule.noise_to_signal)
