# SPDX-License-Identifier: Apache-2.0
"""Photos -> concept: data, loss, train step, loop, checkpoints."""

from typing import TYPE_CHECKING

from mrti_jax.lazy import lazy_names

if TYPE_CHECKING:
    from mrti_jax.training.checkpoint import load_concept
    from mrti_jax.training.config import Config, read_config
    from mrti_jax.training.learning import learn, learn_many
    from mrti_jax.training.subject import Subject

__all__ = ["Config", "Subject", "learn", "learn_many", "load_concept", "read_config"]

# At first use: the settings, which `--help` prints, need none of what the training needs.
__getattr__ = lazy_names(
    __name__,
    {
        "Config": "mrti_jax.training.config",
        "Subject": "mrti_jax.training.subject",
        "learn": "mrti_jax.training.learning",
        "learn_many": "mrti_jax.training.learning",
        "load_concept": "mrti_jax.training.checkpoint",
        "read_config": "mrti_jax.training.config",
    },
)
