# SPDX-License-Identifier: Apache-2.0
"""Buckets of diffusion time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.concept import (
    bucket,
    bucket_from_boundaries,
    equal_boundaries,
    resolution_to_bucket,
)
from mrti_jax.errors import UserError


@pytest.mark.parametrize("timesteps", [10, 37, 1000])
@pytest.mark.parametrize("num_buckets", [1, 2, 3, 7, 10])
def test_boundaries_and_formula_agree(num_buckets: int, timesteps: int) -> None:
    t = np.arange(timesteps)
    expected = [x * num_buckets // timesteps for x in range(timesteps)]
    boundaries = equal_boundaries(num_buckets, timesteps)
    assert boundaries.dtype == np.int32 and len(boundaries) == num_buckets + 1
    assert bucket(t, num_buckets, timesteps).tolist() == expected
    assert bucket_from_boundaries(t, boundaries).tolist() == expected
    traced = jax.jit(lambda t, b: bucket_from_boundaries(t, b))(jnp.asarray(t), boundaries)
    assert traced.tolist() == expected
    assert jax.jit(lambda t: bucket(t, num_buckets, timesteps))(t).tolist() == expected


def test_ends_of_ten_buckets() -> None:
    assert [bucket(t, 10, 1000) for t in (0, 99, 100, 899, 900, 999)] == [0, 0, 1, 8, 9, 9]


def test_unequal_boundaries_and_fractional_timesteps() -> None:
    boundaries = np.array([0, 5, 400, 1000], np.int32)
    t = np.array([0.0, 4.99, 5.0, 399.999, 400.0, 999.0, 1000.0, -1.0])
    assert bucket_from_boundaries(t, boundaries).tolist() == [0, 0, 1, 1, 2, 2, 2, 0]


@pytest.mark.parametrize("num_buckets", [0, -1, 11])
def test_impossible_number_of_buckets(num_buckets: int) -> None:
    with pytest.raises(UserError, match="between 1 and the 10"):
        equal_boundaries(num_buckets, 10)


def test_resolutions_are_exact_in_decimals() -> None:
    for digits in (1, 2, 3):
        scale = 10**digits
        for numerator in range(scale + 1):
            for num_buckets in (1, 3, 7, 10, 100, 1000):
                expected = min(numerator * num_buckets // scale, num_buckets - 1)
                resolution = float(f"{numerator // scale}.{numerator % scale:0{digits}d}")
                assert resolution_to_bucket(resolution, num_buckets) == expected


@pytest.mark.parametrize("resolution", [-0.1, 1.01, float("nan"), float("inf")])
def test_resolution_outside_0_to_1(resolution: float) -> None:
    with pytest.raises(UserError, match=r"between 0\.0 and 1\.0"):
        resolution_to_bucket(resolution, 10)
