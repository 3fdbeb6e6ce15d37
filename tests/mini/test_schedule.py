# SPDX-License-Identifier: Apache-2.0
"""The embedded model's noise schedule."""

import numpy as np

from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.mini.recipe import SCHEDULER
from mrti_jax.models.stored.families import SCHEDULE as STABLE_DIFFUSION

BENT = NoiseSchedule.from_config(SCHEDULER)
PLAIN = NoiseSchedule.from_config(STABLE_DIFFUSION)


def test_the_schedule_is_stable_diffusion_s_at_a_bent_time() -> None:
    # w(u) = 5/7 u + 2/7 u^5: at both ends the same; w(0.9) = 0.8116, w(0.5) = 0.3661
    for timestep, plain in ((899, 811), (499, 366), (999, 999)):
        ours, theirs = np.log(BENT.alphas_cumprod[timestep]), np.log(PLAIN.alphas_cumprod)
        assert theirs[plain] * 1.005 < ours < theirs[plain - 1] * 0.995, timestep
