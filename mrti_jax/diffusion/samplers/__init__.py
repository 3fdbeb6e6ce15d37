# SPDX-License-Identifier: Apache-2.0
"""The samplers by name, and which one a model's own scheduler config asks for."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mrti_jax.diffusion.samplers.ddim import DDIM
from mrti_jax.diffusion.samplers.dpmpp_2m import DPMpp2M
from mrti_jax.diffusion.samplers.euler import Euler
from mrti_jax.diffusion.samplers.euler_ancestral import EulerAncestral
from mrti_jax.diffusion.samplers.pndm import PNDM
from mrti_jax.diffusion.samplers.sampler import Sampler
from mrti_jax.errors import UserError, nearest

# The name, not the config, decides whether the noise levels are Karras's.
SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": DDIM.from_config,
    "pndm": PNDM.from_config,
    "euler": partial(Euler.from_config, use_karras_sigmas=False),
    "euler_karras": partial(Euler.from_config, use_karras_sigmas=True),
    "euler_ancestral": EulerAncestral.from_config,
    "dpmpp_2m": partial(DPMpp2M.from_config, use_karras_sigmas=False),
    "dpmpp_2m_karras": partial(DPMpp2M.from_config, use_karras_sigmas=True),
}

SCHEDULER_CLASSES = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
}


def make_sampler(name: str, scheduler_config: Mapping[str, Any], **options: Any) -> Sampler:
    """The sampler `name` for a model whose `scheduler_config.json` is given.

    `options` (`eta=1.0`, `timestep_spacing="trailing"`, ...) override the file's. Raises UserError
    for an unknown name or option, and for a value that this sampler doesn't support.
    """
    check_sampler(name)
    return SAMPLERS[name](scheduler_config, **options)


def check_sampler(name: str) -> None:
    """Raises UserError for an unknown name."""
    if name not in SAMPLERS:
        raise UserError(
            f"unknown sampler {name!r}: choose from {', '.join(SAMPLERS)}{nearest(name, SAMPLERS)}"
        )


def sampler_from_config(scheduler_config: Mapping[str, Any]) -> str:
    """The name of the sampler that a `scheduler_config.json` is written for.

    Raises UserError if its `_class_name` is missing or not a known scheduler.
    """
    class_name = scheduler_config.get("_class_name")
    if not isinstance(class_name, str) or class_name not in SCHEDULER_CLASSES:
        raise UserError(
            f"scheduler config: _class_name is {class_name!r}, but must be one of "
            f"{', '.join(SCHEDULER_CLASSES)}; name a sampler yourself: {', '.join(SAMPLERS)}"
        )
    name = SCHEDULER_CLASSES[class_name]
    karras = scheduler_config.get("use_karras_sigmas") and f"{name}_karras" in SAMPLERS
    return f"{name}_karras" if karras else name
