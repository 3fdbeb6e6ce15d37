# SPDX-License-Identifier: Apache-2.0
"""Photos -> concept: data, loss, train step, loop, checkpoints."""

from mrti_jax.training.checkpoint import load_concept
from mrti_jax.training.config import Config, read_config
from mrti_jax.training.learn import learn

__all__ = ["Config", "learn", "load_concept", "read_config"]
