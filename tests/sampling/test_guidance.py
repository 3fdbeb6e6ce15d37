# SPDX-License-Identifier: Apache-2.0
"""At which steps guidance acts, and what it does there."""

import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.sampling.guidance import guide, in_words, scales_of_steps

TIMESTEPS = np.asarray([1000, 999, 700, 699.5, 300, 299, 1, 0])


@pytest.mark.parametrize(
    ("interval", "acts"),
    [
        ((0.0, 1.0), [1, 1, 1, 1, 1, 1, 1, 1]),
        ((0.3, 1.0), [1, 1, 1, 1, 1, 0, 0, 0]),
        ((0.0, 0.7), [0, 0, 0, 1, 1, 1, 1, 1]),
        ((0.3, 0.7), [0, 0, 0, 1, 1, 0, 0, 0]),
        ((0.3, 0.7001), [0, 0, 1, 1, 1, 0, 0, 0]),
    ],
)
def test_the_interval_has_its_lower_end(interval: tuple[float, float], acts: list[int]) -> None:
    """And the upper one only if that is 1: a scheduler's steps_offset can reach it."""
    scales = scales_of_steps(TIMESTEPS, 1000, 5.0, interval)
    np.testing.assert_array_equal(scales, np.where(acts, 5, 1))


def test_captions_name_the_interval_if_it_is_not_all() -> None:
    assert in_words(7.5, (0.0, 1.0)) == "guidance 7.5"
    assert in_words(3.0, (0.2, 1.0)) == "guidance 3 from 0.2 to 1"


def test_a_scale_of_1_is_the_conditional_prediction() -> None:
    rng = np.random.default_rng(0)
    away, toward = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    for rescale in (0.0, 0.7):
        got = guide(jnp.asarray(away), jnp.asarray(toward), jnp.float32(1), jnp.float32(rescale))
        np.testing.assert_array_equal(got, toward)
