# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++ (2M): Lu et al. 2022 (arXiv 2211.01095)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int32

from mrti_jax.diffusion.betas import BetaSchedule
from mrti_jax.diffusion.karras import karras_sigmas, timesteps_of
from mrti_jax.diffusion.prediction import x0_and_epsilon
from mrti_jax.diffusion.samplers.sampler import FinalSigmasType, Sampler
from mrti_jax.diffusion.schedule import NoiseSchedule
from mrti_jax.diffusion.timesteps import TimestepSpacing, check_num_steps, spaced_timesteps
from mrti_jax.errors import UserError

# With fewer steps than this, `lower_order_final` makes the last one first order.
FEW_STEPS = 15


class Steps(NamedTuple):
    """Per call, [S]."""

    timesteps: Any  # int32
    alpha: Any
    sigma: Any
    decay: Any  # sigma_i / sigma_(i-1)
    gain: Any  # -alpha_i (exp(-h_i) - 1)
    extrapolation: Any  # 1 / (2 r_i), 0 where the step is first order


# Options of UniPC, DEIS and DDPM, which the reference's scheduler of this kind reads as its own.
READ_AS: Mapping[str, Mapping[str, str | None]] = {
    "solver_type": dict.fromkeys(("bh1", "bh2", "logrho"), "midpoint"),
    "algorithm_type": {"deis": "dpmsolver++"},
    "variance_type": dict.fromkeys(
        ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
    ),
}


class DPMppState(NamedTuple):
    """`x0` is the previous call's estimate."""

    latents: Float[Array, "..."]
    x0: Float[Array, "..."]


@dataclass(frozen=True, kw_only=True)
class DPMpp2M(Sampler):
    """Algorithm 2, the multistep solver of order 2 for the data prediction, midpoint variant.

    The first step is first order; so is the last where it ends at sigma 0, with `euler_at_final`,
    and with `lower_order_final` where there are fewer than 15 steps. As in the reference, Karras
    timesteps are rounded, or for the `beta_schedule` "squaredcos_cap_v2" cut to whole numbers.
    """

    beta_schedule: BetaSchedule = "linear"
    timestep_spacing: TimestepSpacing = "linspace"
    use_karras_sigmas: bool = False
    final_sigmas_type: FinalSigmasType = "zero"
    lower_order_final: bool = True
    euler_at_final: bool = False

    only: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "solver_order": 2,
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "thresholding": False,
            "use_exponential_sigmas": False,
            "use_beta_sigmas": False,
            "use_lu_lambdas": False,
            "use_flow_sigmas": False,
            "use_dynamic_shifting": False,
            "lambda_min_clipped": -float("inf"),
            "variance_type": None,
            "sigma_min": None,
            "sigma_max": None,
        }
    )

    @classmethod
    def from_config(cls, scheduler_config: Mapping[str, Any], **options: Any) -> "Sampler":
        own = {
            key: same[scheduler_config[key]]
            for key, same in READ_AS.items()
            if scheduler_config.get(key) in list(same)  # JSON's lists have no hash
        }
        return super().from_config({**scheduler_config, **own}, **options)

    def plan(self, schedule: NoiseSchedule, num_steps: int) -> Steps:
        timesteps, ratio = self._timesteps_and_ratios(schedule, num_steps)
        last = 0.0 if self.final_sigmas_type == "zero" else schedule.noise_to_signal[0]
        following = np.append(ratio[1:], last)
        decay_of_ratio = following / ratio  # exp(-h), as lambda = -log(ratio)
        if decay_of_ratio[:-1].max(initial=0) >= 1 or decay_of_ratio[-1] > 1:
            raise UserError(
                f"{num_steps} steps with timestep_spacing "
                f"'{self.timestep_spacing}' repeat a timestep, which sampler DPMpp2M can't do: "
                "use fewer steps"
            )
        alpha, next_alpha = (ratio**2 + 1) ** -0.5, (following**2 + 1) ** -0.5
        with np.errstate(divide="ignore"):
            h = -np.log(decay_of_ratio)
        extrapolation = np.append(0.0, h[1:] / h[:-1] / 2)  # 1 / (2 r), r = h_(i-1) / h_i
        few = self.lower_order_final and num_steps < FEW_STEPS
        if self.final_sigmas_type == "zero" or self.euler_at_final or few:
            extrapolation[-1] = 0
        return Steps(
            timesteps,
            *np.array(
                [
                    alpha,
                    alpha * ratio,
                    decay_of_ratio * next_alpha / alpha,
                    next_alpha * (1 - decay_of_ratio),
                    extrapolation,
                ],
                np.float32,
            ),
        )

    def _timesteps_and_ratios(
        self, schedule: NoiseSchedule, num_steps: int
    ) -> tuple[Int32[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        ratios, total = schedule.noise_to_signal, schedule.num_train_timesteps
        if self.use_karras_sigmas:
            check_num_steps(total, num_steps)
            sigmas = karras_sigmas(ratios[-1], ratios[0], num_steps)
            # Logarithms in fp32, as in the reference: it cuts 998.9999, where 999 would stay.
            timesteps = timesteps_of(sigmas, ratios.astype(np.float32))
            cut = self.beta_schedule == "squaredcos_cap_v2"
            return (timesteps if cut else timesteps.round()).astype(np.int32), sigmas
        spaced = spaced_timesteps(
            self.timestep_spacing, total, num_steps, self.steps_offset, end_at_data=True
        )
        timesteps = spaced.round().astype(np.int32)
        return timesteps, ratios[timesteps]

    def initialize(self, noise: Float[Array, "*shape"], steps: Steps) -> DPMppState:
        latents = noise.astype(jnp.float32)
        return DPMppState(latents, jnp.zeros_like(latents))

    def update(
        self,
        state: DPMppState,
        prediction: Float[Array, "*shape"],
        step: Steps,
        noise: Float[Array, "*shape"] | None = None,
    ) -> DPMppState:
        x0, _ = x0_and_epsilon(
            self.prediction_type, prediction, state.latents, step.alpha, step.sigma
        )
        extrapolated = (1 + step.extrapolation) * x0 - step.extrapolation * state.x0
        return DPMppState(step.decay * state.latents + step.gain * extrapolated, x0)
