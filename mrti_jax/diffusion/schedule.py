# SPDX-License-Identifier: Apache-2.0
"""The noise schedule: how much of the picture and how much noise there is at each timestep."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int

from mrti_jax.diffusion.betas import betas_from_config
from mrti_jax.diffusion.option import check_option
from mrti_jax.diffusion.prediction import PredictionType, min_snr_weight, training_target

# What the PyTorch reference substitutes for a cumulative product of exactly 0 where it needs a
# noise-to-signal ratio: the smallest fp16 number.
LEAST_ALPHA_CUMPROD = 2.0**-24


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A variance-preserving diffusion of T steps (Ho et al. 2020, arXiv 2006.11239, eq. 4).

    x_t = alpha[t] x_0 + sigma[t] epsilon, with alpha[t] = sqrt(alphas_cumprod[t]) and
    sigma[t] = sqrt(1 - alphas_cumprod[t]). Equality and hash are by identity, so that a schedule
    can be closed over, or be a static argument, under `jax.jit`.
    """

    alphas_cumprod: Float32[np.ndarray, " T"]
    prediction_type: PredictionType

    @classmethod
    def from_config(cls, scheduler_config: Mapping[str, Any]) -> "NoiseSchedule":
        """Reads the dict of a `scheduler_config.json`; a missing key has the reference's default.

        betas and 1 - betas are rounded to fp32, their products are taken in fp64 and rounded to
        fp32: that is what the reference's arithmetic amounts to, and what its networks have seen.
        Raises UserError for an unknown beta_schedule or prediction_type, or unusable betas.
        """
        prediction_type = scheduler_config.get("prediction_type", "epsilon")
        check_option("prediction_type", prediction_type, PredictionType)
        alphas = 1 - betas_from_config(scheduler_config)
        alphas_cumprod = np.cumprod(alphas, dtype=np.float64).astype(np.float32)
        return cls(alphas_cumprod, prediction_type)

    @property
    def num_train_timesteps(self) -> int:
        """T, usually 1000."""
        return len(self.alphas_cumprod)

    @cached_property
    def alpha(self) -> Float64[np.ndarray, " T"]:
        """Coefficient of the clean latents at each timestep."""
        return np.sqrt(self.alphas_cumprod.astype(np.float64))

    @cached_property
    def sigma(self) -> Float64[np.ndarray, " T"]:
        """Coefficient of the noise at each timestep."""
        return np.sqrt(1 - self.alphas_cumprod.astype(np.float64))

    @cached_property
    def noise_to_signal(self) -> Float64[np.ndarray, " T"]:
        """sigma / alpha, the "sigma" of Karras et al. 2022 (arXiv 2206.00364): rises with t. At
        zero terminal SNR it is 4096, which may be less than before."""
        alphas_cumprod = self.alphas_cumprod.astype(np.float64)
        alphas_cumprod = np.where(alphas_cumprod == 0, LEAST_ALPHA_CUMPROD, alphas_cumprod)
        return np.sqrt((1 - alphas_cumprod) / alphas_cumprod)

    def snr(self, timesteps: Int[Array, "..."]) -> Float[Array, "..."]:
        """Signal-to-noise ratio alpha^2 / sigma^2, fp32; NaN for a timestep of T or more."""
        return _lookup((self.alpha / self.sigma) ** 2, timesteps)

    def min_snr_weight(self, timesteps: Int[Array, "..."], gamma: float) -> Float[Array, "..."]:
        """Weight of a prediction's squared error by Min-SNR-gamma, fp32; NaN as in `snr`."""
        return min_snr_weight(self.prediction_type, self.snr(timesteps), gamma)

    def add_noise(
        self,
        latents: Float[Array, "*batch_and_shape"],
        noise: Float[Array, "*batch_and_shape"],
        timesteps: Int[Array, "..."],
    ) -> Float[Array, "*batch_and_shape"]:
        """x_t in fp32, for `timesteps` of shape [] or [B]; NaN for a timestep of T or more."""
        alpha, sigma = self._at(timesteps, latents.ndim)
        return alpha * latents.astype(jnp.float32) + sigma * noise.astype(jnp.float32)

    def target(
        self,
        latents: Float[Array, "*batch_and_shape"],
        noise: Float[Array, "*batch_and_shape"],
        timesteps: Int[Array, "..."],
    ) -> Float[Array, "*batch_and_shape"]:
        """What the network should predict at `add_noise(latents, noise, timesteps)`, fp32."""
        alpha, sigma = self._at(timesteps, latents.ndim)
        return training_target(self.prediction_type, latents, noise, alpha, sigma)

    def _at(
        self, timesteps: Int[Array, "..."], ndim: int
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        shape = timesteps.shape + (1,) * (ndim - timesteps.ndim)
        return (
            _lookup(self.alpha, timesteps).reshape(shape),
            _lookup(self.sigma, timesteps).reshape(shape),
        )


def _lookup(table: Float64[np.ndarray, " T"], index: Int[Array, "..."]) -> Float[Array, "..."]:
    # "fill" gives NaN out of range, where plain indexing would silently take the last entry.
    return jnp.asarray(table, jnp.float32).at[index].get(mode="fill", fill_value=jnp.nan)
