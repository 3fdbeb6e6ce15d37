# SPDX-License-Identifier: Apache-2.0
"""Multiresolution Textual Inversion for Stable Diffusion, in JAX and Flax.

    from mrti_jax import Concept, StableDiffusion, generate, learn

The names are imported at their first use, so that `import mrti_jax` alone takes no time.
"""

import logging
from typing import TYPE_CHECKING

from mrti_jax.lazy import lazy_names

if TYPE_CHECKING:
    from mrti_jax.concept import Concept
    from mrti_jax.models.stable_diffusion import StableDiffusion
    from mrti_jax.sampling import generate
    from mrti_jax.training import Subject, learn, learn_many

__all__ = ["Concept", "StableDiffusion", "Subject", "generate", "learn", "learn_many"]
__version__ = "0.1.0"

_HOMES = {
    "Concept": "mrti_jax.concept",
    "StableDiffusion": "mrti_jax.models.stable_diffusion",
    "Subject": "mrti_jax.training",
    "generate": "mrti_jax.sampling",
    "learn": "mrti_jax.training",
    "learn_many": "mrti_jax.training",
}

# Only its tokenizer is used here, so its advice on import to install PyTorch would mislead.
logging.getLogger("transformers").addFilter(lambda record: "PyTorch was not" not in str(record.msg))


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
