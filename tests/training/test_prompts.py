# SPDX-License-Identifier: Apache-2.0
"""The captions of the photos: which photo has which."""

from dataclasses import replace

import numpy as np
import pytest

from mrti_jax.concept import OBJECT_TEMPLATES
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training.images import from_arrays
from mrti_jax.training.prompts import tokenize_captions


def test_crops_share_their_photo_s_captions_and_one_too_long_is_told_once(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray]
):
    plain, other, _ = from_arrays(pictures, 16)
    captioned = replace(other, captions=("{} on a beach", "{}" + 80 * " dog"))
    with pytest.warns(UserWarning, match="cut off") as told:
        prompts = tokenize_captions(
            [captioned, captioned, plain, captioned], "object", 1, tiny_sd.tokenizers
        )
    assert len(told) == len(tiny_sd.tokenizers)
    count = len(OBJECT_TEMPLATES)
    assert len(prompts.ids) == 2 + count
    np.testing.assert_array_equal(prompts.first, [0, 0, 2, 0])
    np.testing.assert_array_equal(prompts.num, [2, 2, count, 2])
