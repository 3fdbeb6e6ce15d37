# SPDX-License-Identifier: Apache-2.0
"""Photos -> concept: data, loss, train step, loop, checkpoints."""

from etils import epy

# On first use: the settings, which `--help` prints, need nothing that training needs.
with epy.lazy_api_imports(globals()):
    from mrti_jax.training.checkpoint import load_concept
    from mrti_jax.training.config import (
        ConceptConfig,
        Config,
        DataConfig,
        OptimizerConfig,
        TrainConfig,
        read_config,
    )
    from mrti_jax.training.learning import learn, learn_many
    from mrti_jax.training.subject import Subject

__all__ = [
    "ConceptConfig",
    "Config",
    "DataConfig",
    "OptimizerConfig",
    "Subject",
    "TrainConfig",
    "learn",
    "learn_many",
    "load_concept",
    "read_config",
]
