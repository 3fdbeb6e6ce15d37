# SPDX-License-Identifier: Apache-2.0
"""The betas (noise added at each training timestep) that a `scheduler_config.json` defines."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from mrti_jax.diffusion.option import check_option
from mrti_jax.errors import UserError

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
MAX_COSINE_BETA = 0.999


def betas_from_config(scheduler_config: Mapping[str, Any]) -> Float32[np.ndarray, " T"]:
    """The betas in fp32; missing keys have the reference's defaults.

    Raises UserError for a scheduler without betas, an unknown beta_schedule, and betas that are
    not of length num_train_timesteps or not between 0 and 1.
    """
    config = scheduler_config
    class_name = str(config.get("_class_name"))
    if class_name.startswith(("EDM", "FlowMatch")):
        raise UserError(
            f"scheduler config: {class_name} has noise levels of another kind, not betas: models "
            "trained with them are not supported"
        )
    name = config.get("beta_schedule", "linear")
    count = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    check_option("num_train_timesteps", count, int, least=1)
    check_option("beta_schedule", name, BetaSchedule)
    check_option("beta_start", start, float, least=0, most=1)
    check_option("beta_end", end, float, least=0, most=1)

    if config.get("trained_betas") is not None:
        try:
            betas = np.asarray(config["trained_betas"], np.float32)
        except (OverflowError, TypeError, ValueError):
            raise UserError("scheduler config: trained_betas is not a list of numbers") from None
    elif name == "linear":
        betas = np.linspace(start, end, count).astype(np.float32)
    elif name == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, count).astype(np.float32) ** 2
    else:
        betas = _cosine_betas(count)
    if betas.shape != (count,):
        raise UserError(
            f"scheduler config: trained_betas has shape {list(betas.shape)}, but "
            f"num_train_timesteps is {count}"
        )
    if not (np.all(betas > 0) and np.all(betas < 1)):
        raise UserError(
            f"scheduler config: betas must lie between 0 and 1, found {betas.min():g} to "
            f"{betas.max():g}; check beta_start, beta_end or trained_betas"
        )
    rescale = config.get("rescale_betas_zero_snr", False)
    check_option("rescale_betas_zero_snr", rescale, bool)
    return _zero_terminal_snr(betas) if rescale else betas


def _cosine_betas(count: int) -> Float32[np.ndarray, " T"]:
    """Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17."""
    time = np.arange(count + 1) / count
    alphas_cumprod = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = 1 - alphas_cumprod[1:] / alphas_cumprod[:-1]
    return np.minimum(betas, MAX_COSINE_BETA).astype(np.float32)


def _zero_terminal_snr(betas: Float32[np.ndarray, " T"]) -> Float32[np.ndarray, " T"]:
    """Lin et al. 2023 (arXiv 2305.08891), algorithm 1: shifts and scales sqrt(alphas_cumprod) so
    that the last is 0 and the first is unchanged. The last beta is exactly 1."""
    if len(betas) < 2:
        raise UserError("scheduler config: rescale_betas_zero_snr needs at least 2 timesteps")
    alpha = np.sqrt(np.cumprod(1 - betas, dtype=np.float64).astype(np.float32))
    alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
    alphas_cumprod = alpha**2
    alphas = np.append(alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1])
    return 1 - alphas
