# SPDX-License-Identifier: Apache-2.0
"""What a network predicts, and what that implies for the clean latents and the noise.

Throughout, x_t = alpha x_0 + sigma epsilon with alpha^2 + sigma^2 = 1 (variance preserving).
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

PredictionType = Literal["epsilon", "v_prediction", "sample"]


def training_target(
    prediction_type: PredictionType,
    latents: Float[Array, "*shape"],
    noise: Float[Array, "*shape"],
    alpha: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Float[Array, "*shape"]:
    """What the network should predict, fp32; v = alpha epsilon - sigma x_0 is eq. 10 of
    Salimans & Ho 2022 (arXiv 2202.00512). `alpha` and `sigma` broadcast against the latents."""
    latents, noise = latents.astype(jnp.float32), noise.astype(jnp.float32)
    match prediction_type:
        case "epsilon":
            return noise
        case "v_prediction":
            return alpha * noise - sigma * latents
        case "sample":
            return latents


def x0_and_epsilon(
    prediction_type: PredictionType,
    prediction: Float[Array, "*shape"],
    latents: Float[Array, "*shape"],
    alpha: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The estimates (x_0, epsilon), fp32, that a prediction at the noisy `latents` implies.

    `alpha` and `sigma` broadcast against the latents. An `epsilon` prediction says nothing about
    x_0 where alpha is 0, nor a `sample` one about epsilon where sigma is 0: inf or NaN there.
    """
    prediction, latents = prediction.astype(jnp.float32), latents.astype(jnp.float32)
    match prediction_type:
        case "epsilon":
            return (latents - sigma * prediction) / alpha, prediction
        case "v_prediction":
            return alpha * latents - sigma * prediction, alpha * prediction + sigma * latents
        case "sample":
            return prediction, (latents - alpha * prediction) / sigma


def min_snr_weight(
    prediction_type: PredictionType, snr: Float[Array, "*batch"], gamma: float
) -> Float[Array, "*batch"]:
    """The weight of a prediction's squared error at a signal-to-noise ratio, such that the error of
    x_0 has the weight min(SNR, gamma).

    Min-SNR-gamma, section 3.4 of Hang et al. 2023 (arXiv 2303.09556). The squared error of x_0 is
    that of epsilon over SNR, and that of v over SNR + 1.
    """
    match prediction_type:
        case "epsilon":
            return jnp.minimum(gamma / snr, 1.0)  # 1 where the SNR is 0
        case "v_prediction":
            return jnp.minimum(snr, gamma) / (snr + 1.0)
        case "sample":
            return jnp.minimum(snr, gamma)
