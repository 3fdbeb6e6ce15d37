# SPDX-License-Identifier: Apache-2.0
"""The prior of the embedded model's latents."""

import jax.numpy as jnp
import numpy as np
from scipy.fft import dct

from mrti_jax.mini.autoencoder import kl_divergence, prior_variance

RNG = np.random.default_rng(0)
SIDE = 6


def test_kl_divergence_is_that_of_two_normal_distributions() -> None:
    """By their covariance matrices, for one channel whose latents have the same variance."""
    basis = dct(np.eye(SIDE), axis=0, norm="ortho").T  # a column for each frequency
    basis = np.kron(basis, basis)
    prior = basis @ np.diag(prior_variance(SIDE, SIDE).ravel()) @ basis.T
    mean, variance = RNG.standard_normal(SIDE * SIDE), 0.3
    inverse, count = np.linalg.inv(prior), SIDE * SIDE
    wanted = 0.5 * (
        mean @ inverse @ mean
        + variance * np.trace(inverse)
        - count
        + np.linalg.slogdet(prior)[1]
        - count * np.log(variance)
    )
    given = jnp.asarray(mean.reshape(1, SIDE, SIDE, 1), jnp.float32)
    found = kl_divergence(given, jnp.full_like(given, np.log(variance)))
    np.testing.assert_allclose(found, wanted / count, rtol=1e-5)  # float32


def test_details_are_dearer_than_layout() -> None:
    variance = prior_variance(16, 16)
    assert variance[0, 0] > 1000 * variance[8, 8] and variance[8, 8] == variance[15, 15]
    np.testing.assert_array_equal(variance, variance.T)
    # The same wavelength costs the same in a crop: its frequencies are multiples of larger steps.
    np.testing.assert_array_equal(prior_variance(8, 8), variance[::2, ::2])
