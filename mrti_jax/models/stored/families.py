# SPDX-License-Identifier: Apache-2.0
"""The families of Stable Diffusion, and what the tensors of a file don't say about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrti_jax.models.source import UNetPrediction


@dataclass(frozen=True)
class Family:
    """What the tensors of a family don't say about it.

    Attributes:
        text: prefixes of the text encoders' tensors.
        sample_size: side of the latents, with epsilon and with v-prediction.
        scheduler_config: as in the diffusers folder of the family's first release.
    """

    name: str
    text: tuple[str, ...]
    sample_size: Mapping[UNetPrediction, int]
    scaling_factor: float
    scheduler_config: Mapping[str, Any]


SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""What the scheduler configs of all families' first releases have in common."""

SD1 = Family(
    "Stable Diffusion 1.x",
    ("cond_stage_model.transformer.",),
    {"epsilon": 64, "v_prediction": 64},
    0.18215,
    {**SCHEDULE, "_class_name": "PNDMScheduler", "skip_prk_steps": True},
)
SD2 = Family(
    "Stable Diffusion 2.x",
    ("cond_stage_model.model.",),
    {"epsilon": 64, "v_prediction": 96},
    0.18215,
    {**SCHEDULE, "_class_name": "DDIMScheduler"},
)
SDXL = Family(
    "Stable Diffusion XL",
    ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
    {"epsilon": 128, "v_prediction": 128},
    0.13025,
    {**SCHEDULE, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
)
