# SPDX-License-Identifier: Apache-2.0
"""DDIM: Denoising Diffusion Implicit Models (Song et al. 2020, arXiv 2010.02502)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mrti_jax.diffusion.prediction import x0_and_epsilon
from mrti_jax.diffusion.samplers.sampler import Sampler, State
from mrti_jax.diffusion.schedule import NoiseSchedule
from mrti_jax.diffusion.timesteps import TimestepSpacing, spaced_timesteps
from mrti_jax.errors import UserError


class Steps(NamedTuple):
    """Per call, [S]: alpha and sigma at its timestep, and the weights of the update."""

    timesteps: Any  # int32
    alpha: Any
    sigma: Any
    next_alpha: Any
    direction: Any
    noise_std: Any


@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """Eq. 12, with the variance of eq. 16: `eta` 0 is deterministic, 1 is DDPM's posterior.

    As in the reference, a step goes to t - T // n, which for "linspace" and "trailing" is not
    always the next timestep. One default differs: `clip_sample`, since latents reach far beyond
    [-1, 1].
    """

    timestep_spacing: TimestepSpacing = "leading"
    set_alpha_to_one: bool = True
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    eta: float = 0.0

    only: ClassVar[Mapping[str, Any]] = MappingProxyType({"thresholding": False})

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"sampler DDIM: eta is {self.eta:g}, but must lie between 0 and 1")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def plan(self, schedule: NoiseSchedule, num_steps: int) -> Steps:
        total = schedule.num_train_timesteps
        timesteps = spaced_timesteps(self.timestep_spacing, total, num_steps, self.steps_offset)
        timesteps = timesteps.round().astype(np.int32)
        next_timesteps = timesteps - total // num_steps
        alphas_cumprod = schedule.alphas_cumprod.astype(np.float64)
        last = 1.0 if self.set_alpha_to_one else alphas_cumprod[0]
        current = alphas_cumprod[timesteps]
        following = np.where(next_timesteps >= 0, alphas_cumprod[next_timesteps], last)
        if self.prediction_type == "epsilon" and current.min() == 0:
            raise UserError(
                "scheduler config: rescale_betas_zero_snr with prediction_type 'epsilon': at zero "
                "signal the noise says nothing about the picture; use the sampler euler or, if the "
                "model was trained that way, set prediction_type to 'v_prediction' in its "
                "scheduler/scheduler_config.json"
            )
        variance = self.eta**2 * (1 - following) / (1 - current) * (1 - current / following)
        return Steps(
            timesteps,
            *np.array(
                [
                    np.sqrt(current),
                    np.sqrt(1 - current),
                    np.sqrt(following),
                    np.sqrt(np.maximum(1 - following - variance, 0)),
                    np.sqrt(variance),
                ],
                np.float32,
            ),
        )

    def update(
        self,
        state: State,
        prediction: Float[Array, "*shape"],
        step: Steps,
        noise: Float[Array, "*shape"] | None = None,
    ) -> State:
        x0, epsilon = x0_and_epsilon(
            self.prediction_type, prediction, state.latents, step.alpha, step.sigma
        )
        if self.clip_sample:
            x0 = jnp.clip(x0, -self.clip_sample_range, self.clip_sample_range)
        latents = step.next_alpha * x0 + step.direction * epsilon
        if self.stochastic:
            assert noise is not None, "a stochastic sampler needs noise"
            latents = latents + step.noise_std * noise
        return State(latents)
