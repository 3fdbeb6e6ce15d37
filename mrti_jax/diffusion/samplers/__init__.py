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
from mrti_jax.errors import UserError, check_word

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

# For models whose own sampler is not among them.
OTHER_SAMPLER = "ddim"

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
    check_word("sampler", name, tuple(SAMPLERS))


def own_sampler(scheduler_config: Mapping[str, Any]) -> tuple[str, str]:
    """The name of the sampler that a `scheduler_config.json` is written for, and an empty string;
    if that can't be used, the name of another, and why."""
    class_name = scheduler_config.get("_class_name")
    try:
        check_word("scheduler config: _class_name", class_name, tuple(SCHEDULER_CLASSES))
        name = SCHEDULER_CLASSES[str(class_name)]
        if scheduler_config.get("use_karras_sigmas") and f"{name}_karras" in SAMPLERS:
            name = f"{name}_karras"
        make_sampler(name, scheduler_config)
    except UserError as error:
        return OTHER_SAMPLER, str(error)
    return name, ""
