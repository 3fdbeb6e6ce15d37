# SPDX-License-Identifier: Apache-2.0
"""SDXL: what the schemes must have in common, what the sizes do, and what does not fit."""

import numpy as np
import pytest
from tiny import XL_PARTS, tiny_concept

from mrti_jax.concept import by_name, encode_prompts, interval_boundaries
from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling import generate

JANE = tiny_concept(parts=XL_PARTS)
FAST = {"num_steps": 10, "batch_size": 2, "sampler": "ddim"}


def draw(sd: StableDiffusion, word: str, **options: object) -> np.ndarray:
    return generate(sd, f"a photo of {word} in red", [JANE], **FAST, **options)[0].image


@pytest.mark.slow
def test_identities_to_the_bit(tiny_xl_sd: StableDiffusion) -> None:
    bare = draw(tiny_xl_sd, "<jane>")
    for word in ("<jane[0]>", "<jane(0)>"):
        np.testing.assert_array_equal(draw(tiny_xl_sd, word), bare)
    last = draw(tiny_xl_sd, "<jane|9|>")
    np.testing.assert_array_equal(draw(tiny_xl_sd, "<jane[9]>"), last)
    assert (last != bare).any()


def test_the_pooled_text_is_of_the_row_in_use(tiny_xl_sd: StableDiffusion) -> None:
    sd = tiny_xl_sd
    encoded = encode_prompts(
        ["a <jane[7]>", "a dog"],
        by_name([JANE]),
        sd.tokenizers,
        sd.text_encoder,
        interval_boundaries([JANE], 1000),
    )
    states = encoded.of(np.arange(2))
    assert states.hidden.shape == (10, 2, 77, 56) and states.pooled is not None
    own, plain = states.pooled[:, 0], states.pooled[:, 1]
    assert len(np.unique(own, axis=0)) == 3 and (own[:8] == own[0]).all()
    assert len(np.unique(plain, axis=0)) == 1


def test_sizes_are_traced_and_told(tiny_xl_sd: StableDiffusion, tiny_sd: StableDiffusion) -> None:
    own = draw(tiny_xl_sd, "<jane>")
    same = {"original_size": (16, 16), "crop": (0, 0), "target_size": (16, 16)}
    np.testing.assert_array_equal(draw(tiny_xl_sd, "<jane>", **same), own)
    picture = generate(tiny_xl_sd, "a dog", crop=(0, 900), **FAST)[0]
    assert picture.parameters["crop"] == [0, 900]
    assert picture.parameters["original_size"] == [16, 16]
    assert (draw(tiny_xl_sd, "<jane>", crop=(0, 900)) != own).any()
    with pytest.raises(UserError, match="only SDXL takes"):
        generate(tiny_sd, "a dog", crop=(0, 900), **FAST)
    with pytest.raises(UserError, match="only SDXL takes"):
        generate(tiny_sd, "a dog", original_size=(16, 16), **FAST)
    with pytest.raises(UserError, match="negative"):
        generate(tiny_xl_sd, "a dog", crop=(0, -1), **FAST)
    with pytest.raises(UserError, match="at most 2147483647, not 2147483648"):
        generate(tiny_xl_sd, "a dog", original_size=(2**31, 16), **FAST)


def test_a_concept_of_another_text_encoder(
    tiny_xl_sd: StableDiffusion, tiny_sd: StableDiffusion
) -> None:
    with pytest.raises(UserError, match=r"width 24 \(clip_l\) \+ 32 \(clip_g\).*this model has 32"):
        generate(tiny_sd, "a <jane>", [JANE], **FAST)
    with pytest.raises(UserError, match=r"width 56, .*this model has 24 \(clip_l\)"):
        generate(tiny_xl_sd, "a <jane>", [tiny_concept(parts=(("", 56),))], **FAST)
