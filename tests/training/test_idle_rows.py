# SPDX-License-Identifier: Apache-2.0
"""Rows that learned nothing are told, each for its own reason."""

import warnings

import numpy as np
import pytest
from tiny import tiny_concept

from mrti_jax.training.config import OptimizerConfig
from mrti_jax.training.idle_rows import warn_of_idle_rows
from mrti_jax.training.step import State, initial_state

START = tiny_concept(num_buckets=4)


def learned(examples: list[int], gradients: list[int], moved: list[bool]) -> list[str]:
    """What is told of a run that has done this to its rows."""
    table = START.embeddings + np.float32(moved)[:, None, None]
    counts = {"examples": np.int32(examples), "gradients": np.int32(gradients)}
    state: State = initial_state(table, OptimizerConfig()) | counts
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_idle_rows(state, START)
    return [str(warning.message).partition(":")[0] for warning in caught]


@pytest.mark.parametrize(
    ("examples", "gradients", "moved", "told"),
    [
        ([3, 1, 2, 5], [3, 1, 1, 2], [1, 1, 1, 1], []),
        ([3, 0, 2, 5], [3, 0, 1, 2], [1, 0, 1, 1], ["row 1 of <jane> had no training example"]),
        ([3, 1, 2, 5], [3, 1, 0, 0], [1, 1, 0, 0], ["rows 2, 3 of <jane> never got a gradient"]),
        ([3, 1, 2, 5], [3, 1, 1, 2], [0, 1, 1, 1], ["row 0 of <jane> did not move"]),
        (
            [0, 1, 2, 5],
            [0, 0, 1, 2],
            [0, 0, 0, 1],
            [
                "row 0 of <jane> had no training example",
                "row 1 of <jane> never got a gradient",
                "row 2 of <jane> did not move",
            ],
        ),
    ],
)
def test_each_idle_row_is_told_once_and_why(
    examples: list[int], gradients: list[int], moved: list[bool], told: list[str]
):
    own = ["its own" if text.startswith("row ") else "their own" for text in told]
    want = [f"{text} and learned nothing of {whose}" for text, whose in zip(told, own, strict=True)]
    assert learned(examples, gradients, moved) == want
