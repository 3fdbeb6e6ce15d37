# SPDX-License-Identifier: Apache-2.0
"""Buckets: intervals of diffusion time, each with a table row of its own.

Bucket 0 is t near 0 (little noise, fine detail), the last one nearly pure noise (layout, colours).
"""

from fractions import Fraction
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Shaped

from mrti_jax.errors import UserError

Timesteps = TypeVar("Timesteps", int, np.integer, np.ndarray, Array)


def bucket(t: Timesteps, num_buckets: int, num_train_timesteps: int) -> Timesteps:
    """Bucket `(t * N) // T` of integer timesteps t in [0, T): Python, numpy or traced integers."""
    return (t * num_buckets) // num_train_timesteps


def equal_boundaries(num_buckets: int, num_train_timesteps: int) -> Int32[np.ndarray, "edges"]:
    """First timestep of every bucket of `bucket`, then T: `[N + 1]` int32 from 0 to T."""
    if not 1 <= num_buckets <= num_train_timesteps:
        raise UserError(
            f"the number of buckets must lie between 1 and the {num_train_timesteps} training "
            f"timesteps, not {num_buckets}"
        )
    edges = [-(-k * num_train_timesteps // num_buckets) for k in range(num_buckets + 1)]
    return np.asarray(edges, np.int32)


def bucket_from_boundaries(
    t: Shaped[Array, "*batch"] | Shaped[np.ndarray, "*batch"] | int | float,
    boundaries: Int[Array, "edges"] | Int[np.ndarray, "edges"],
) -> Int[Array, "*batch"] | Int[np.ndarray, "*batch"] | np.int32:
    """Index k with `boundaries[k] <= t < boundaries[k + 1]`, int32, also for fractional timesteps.

    Timesteps outside [0, T) (a scheduler's `steps_offset` can reach T) fall in the nearest bucket.
    Returns a jax array for a jax array (traced or not), numpy otherwise.
    """
    xp = jnp if isinstance(t, jax.Array) else np
    index = xp.searchsorted(xp.asarray(boundaries), xp.asarray(t), side="right") - 1
    return xp.clip(index, 0, len(boundaries) - 2).astype(xp.int32)


def resolution_to_bucket(resolution: float, num_buckets: int) -> int:
    """Bucket `min(floor(r * N), N - 1)` of a resolution r in [0, 1].

    Exact in decimal: r is taken as written, so 0.29 of 100 buckets is 29.
    """
    if not 0 <= resolution <= 1:
        raise UserError(f"a resolution must lie between 0.0 and 1.0, not {resolution}")
    written = Fraction(repr(float(resolution)))
    return min(int(written * num_buckets), num_buckets - 1)
