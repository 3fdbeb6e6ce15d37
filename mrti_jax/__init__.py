# SPDX-License-Identifier: Apache-2.0
"""Multiresolution Textual Inversion for Stable Diffusion, in JAX and Flax.

    from mrti_jax import Concept, StableDiffusion, generate, learn

The names are imported on first use, so `import mrti_jax` alone takes no time.
"""

import logging

from etils import epy

with epy.lazy_api_imports(globals()):
    from mrti_jax.concept import Concept
    from mrti_jax.errors import UserError
    from mrti_jax.models.stable_diffusion import StableDiffusion
    from mrti_jax.sampling import generate, sweep
    from mrti_jax.training import Config, Subject, learn, learn_many

__all__ = [
    "Concept",
    "Config",
    "StableDiffusion",
    "Subject",
    "UserError",
    "generate",
    "learn",
    "learn_many",
    "sweep",
]
__version__ = "0.1.0"

# Only its tokenizer is used here, so its advice on import to install PyTorch would mislead.
logging.getLogger("transformers").addFilter(lambda record: "PyTorch was not" not in str(record.msg))
