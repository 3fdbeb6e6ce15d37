# SPDX-License-Identifier: Apache-2.0
"""The timesteps at which the network is called (Lin et al. 2023, arXiv 2305.08891, table 2)."""

from typing import Literal

import numpy as np
from jaxtyping import Float64

from mrti_jax.errors import UserError, warn

TimestepSpacing = Literal["leading", "linspace", "trailing"]


def spaced_timesteps(
    spacing: TimestepSpacing,
    num_train_timesteps: int,
    num_steps: int,
    steps_offset: int = 0,
    *,
    end_at_data: bool = False,
) -> Float64[np.ndarray, " n"]:
    """`num_steps` decreasing timesteps; `steps_offset` applies to "leading" only.

    Whole numbers, except for "linspace". With `end_at_data`, "leading" and "linspace" space one
    more timestep and leave out the last: there, the sampler's last step ends at the data.
    Raises UserError for fewer than 1 or too many steps.
    Warns if the first timestep has little noise, so that pure noise is the wrong start.
    """
    check_num_steps(num_train_timesteps, num_steps)
    total, count = num_train_timesteps, num_steps
    points = count + 1 if end_at_data else count
    if spacing == "leading":
        timesteps = np.arange(points)[::-1] * float(total // points) + steps_offset
    elif spacing == "linspace":
        timesteps = np.linspace(0, total - 1, points)[::-1]
    else:
        # `arange` as in the reference: its rounding decides ties; it may give one value too many.
        timesteps = np.round(np.arange(total, 0, -total / count)) - 1
    timesteps = timesteps[:count]
    if timesteps[0] > total - 1 or timesteps[-1] < 0:
        raise UserError(
            f"{count} steps with the model's timestep_spacing '{spacing}' and steps_offset "
            f"{steps_offset} exceed the {total} trained timesteps: use fewer steps, or correct "
            "steps_offset in the model's scheduler/scheduler_config.json"
        )
    if timesteps[0] < 0.1 * (total - 1):
        warn(
            f"{count} steps with the model's timestep_spacing '{spacing}' start at timestep "
            f"{timesteps[0]:g} of {total}, where the model expects hardly any noise: use more steps"
        )
    return timesteps


def check_num_steps(num_train_timesteps: int, num_steps: int) -> None:
    """Raises UserError for fewer than 1 or too many steps."""
    if not 1 <= num_steps <= num_train_timesteps:
        raise UserError(
            f"the number of steps is {num_steps}; the model was trained with {num_train_timesteps} "
            f"timesteps, so use 1 to {num_train_timesteps} steps"
        )
