# SPDX-License-Identifier: Apache-2.0
"""Rows of the table that learned nothing."""

import numpy as np

from mrti_jax.concept import Concept
from mrti_jax.errors import warn
from mrti_jax.training.step import State


def warn_of_idle_rows(state: State, start: Concept) -> None:
    """Warns of rows that had no example, got no gradient or did not move."""
    rows = np.arange(start.num_buckets)
    without = rows[np.array(state["examples"]) == 0]
    unmoved = (np.array(state["table"]) == start.embeddings).all(axis=(1, 2))
    no_gradient = rows[(np.array(state["gradients"]) == 0) & (np.array(state["examples"]) > 0)]
    still = np.setdiff1d(rows[unmoved], np.concatenate([without, no_gradient]))
    for kind, which in (
        ("had no training example", without),
        ("never got a gradient", no_gradient),
        ("did not move", still),
    ):
        if len(which):
            plural, own = ("s", "their") if len(which) > 1 else ("", "its")
            warn(
                f"row{plural} {', '.join(map(str, which))} of <{start.name}> {kind} and "
                f"learned nothing of {own} own: train longer, or with a larger batch or fewer "
                "buckets"
            )
