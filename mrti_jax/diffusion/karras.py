# SPDX-License-Identifier: Apache-2.0
"""Noise levels spaced as Karras et al. 2022 (arXiv 2206.00364) propose, and their timesteps."""

import numpy as np
from jaxtyping import Float, Float64

RHO = 7.0


def karras_sigmas(largest: float, smallest: float, count: int) -> Float64[np.ndarray, " n"]:
    """Eq. 5: `count` decreasing noise-to-signal ratios, evenly spaced in their RHO-th root."""
    sigmas = np.linspace(largest ** (1 / RHO), smallest ** (1 / RHO), count) ** RHO
    return np.clip(sigmas, smallest, largest)  # rounding must not exceed the ends


def timesteps_of(
    sigmas: Float64[np.ndarray, " n"], noise_to_signal: Float[np.ndarray, " T"]
) -> Float64[np.ndarray, " n"]:
    """The (fractional) timesteps with these noise-to-signal ratios, linear in their logarithm."""
    return np.interp(np.log(sigmas), np.log(noise_to_signal), np.arange(len(noise_to_signal)))
