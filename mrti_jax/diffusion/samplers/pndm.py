# SPDX-License-Identifier: Apache-2.0
"""PNDM: Pseudo Numerical Methods for Diffusion Models (Liu et al. 2022, arXiv 2202.09778)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mrti_jax.diffusion.prediction import x0_and_epsilon
from mrti_jax.diffusion.samplers.sampler import Sampler
from mrti_jax.diffusion.schedule import NoiseSchedule
from mrti_jax.diffusion.timesteps import TimestepSpacing, spaced_timesteps

# Weights of the prediction and of the three before it, newest first: Adams-Bashforth of rising
# order; the second call repeats the first step with the mean of both ends (Heun).
WEIGHTS = np.array(
    [
        [1, 0, 0, 0],
        [1 / 2, 1 / 2, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
)


class Steps(NamedTuple):
    """Per call, [S] and `weights` [S, 4]."""

    timesteps: Any  # int32
    weights: Any
    alpha: Any
    sigma: Any
    next_alpha: Any
    next_sigma: Any
    repeats: Any  # bool: the step begins where the first one began, and leaves no history


class PNDMState(NamedTuple):
    """`start`: the latents before the first call; `history` [3, ...]: the last predictions."""

    latents: Float[Array, "..."]
    start: Float[Array, "..."]
    history: Float[Array, "3 ..."]


@dataclass(frozen=True, kw_only=True)
class PNDM(Sampler):
    """The pseudo linear multistep method (PLMS), eq. 9 and 12; without the Runge-Kutta warm-up
    (`skip_prk_steps`): n steps take n + 1 calls of the network, one step a single call.

    As in the reference, the predictions are combined as they are, whatever the prediction type,
    and a step goes to t - T // n.
    """

    timestep_spacing: TimestepSpacing = "leading"
    set_alpha_to_one: bool = False

    only: ClassVar[Mapping[str, Any]] = MappingProxyType(
        # At zero terminal SNR the transfer divides by alpha = 0.
        {"skip_prk_steps": True, "rescale_betas_zero_snr": False}
    )

    @classmethod
    def from_config(cls, scheduler_config: Mapping[str, Any], **options: Any) -> "Sampler":
        if scheduler_config.get("_class_name") == "PNDMScheduler":
            # The reference's default, which this sampler refuses.
            scheduler_config = {"skip_prk_steps": False, **scheduler_config}
        return super().from_config(scheduler_config, **options)

    def plan(self, schedule: NoiseSchedule, num_steps: int) -> Steps:
        total = schedule.num_train_timesteps
        spaced = spaced_timesteps(self.timestep_spacing, total, num_steps, self.steps_offset)
        stride = total // num_steps
        first, rest = np.split(spaced.round().astype(np.int32), [1])
        timesteps = np.concatenate([first, rest[:1], rest])
        repeats = np.arange(len(timesteps)) == 1
        start = np.where(repeats, timesteps + stride, timesteps)
        end = start - stride
        last = (1.0, 0.0) if self.set_alpha_to_one else (schedule.alpha[0], schedule.sigma[0])
        return Steps(
            timesteps=timesteps,
            weights=WEIGHTS[np.minimum(np.arange(len(timesteps)), 4)].astype(np.float32),
            alpha=schedule.alpha[start].astype(np.float32),
            sigma=schedule.sigma[start].astype(np.float32),
            next_alpha=np.where(end >= 0, schedule.alpha[end], last[0]).astype(np.float32),
            next_sigma=np.where(end >= 0, schedule.sigma[end], last[1]).astype(np.float32),
            repeats=repeats,
        )

    def initialize(self, noise: Float[Array, "*shape"], steps: Steps) -> PNDMState:
        latents = noise.astype(jnp.float32)
        return PNDMState(latents, latents, jnp.zeros((3, *latents.shape), jnp.float32))

    def update(
        self,
        state: PNDMState,
        prediction: Float[Array, "*shape"],
        step: Steps,
        noise: Float[Array, "*shape"] | None = None,
    ) -> PNDMState:
        known = jnp.concatenate([prediction[None].astype(jnp.float32), state.history])
        combined = jnp.tensordot(step.weights, known, axes=1, precision="highest")
        latents = jnp.where(step.repeats, state.start, state.latents)
        x0, epsilon = x0_and_epsilon(
            self.prediction_type, combined, latents, step.alpha, step.sigma
        )
        return PNDMState(
            latents=step.next_alpha * x0 + step.next_sigma * epsilon,
            start=state.start,
            history=jnp.where(step.repeats, state.history, known[:3]),
        )
