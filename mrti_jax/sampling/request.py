# SPDX-License-Identifier: Apache-2.0
"""Checks of a request for pictures that need no model."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mrti_jax.concept import Concept, read_prompt
from mrti_jax.diffusion import check_sampler
from mrti_jax.errors import UserError, check_interval, whole
from mrti_jax.sampling.loop import MAX_SEED


def check_request(
    texts: Iterable[str],
    concepts: Mapping[str, Concept],
    *,
    num_steps: int,
    guidance_scale: float,
    guidance_rescale: float,
    guidance_interval: tuple[float, float],
    eta: float,
    sampler: str | None,
    batch_size: int,
) -> None:
    """Raises UserError for prompts and options of `generate` that no model can use."""
    for text in texts:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"the prompt {text!a} is not UTF-8")
        read_prompt(text, concepts)
    if not math.isfinite(guidance_scale):
        raise UserError(f"the guidance scale is {guidance_scale}, but must be a finite number")
    if not 0 <= guidance_rescale <= 1:
        raise UserError(f"the guidance rescale is {guidance_rescale}, but must lie between 0 and 1")
    check_interval("the guidance interval", guidance_interval)
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}, but must lie between 0 and 1")
    if num_steps < 1:
        raise UserError(f"the number of steps is {num_steps}, but must be 1 or more")
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}, but must be 1 or more")
    if sampler is not None:
        check_sampler(sampler)


def expand_seeds(seeds: int | Sequence[int], images_per_prompt: int = 1) -> list[int]:
    """Every seed s as s, s + 1, ... s + images_per_prompt - 1. Raises UserError."""
    given = [whole("a seed", seed) for seed in (seeds if np.iterable(seeds) else [seeds])]
    images_per_prompt = whole("the number of images per prompt", images_per_prompt)
    if images_per_prompt < 1 or not given:
        raise UserError("there is nothing to draw: give at least one seed and one image per prompt")
    result = [seed + i for seed in given for i in range(images_per_prompt)]
    wrong = [seed for seed in result if not 0 <= seed <= MAX_SEED]
    if wrong:
        raise UserError(f"a seed must lie between 0 and {MAX_SEED}, not {wrong[0]}")
    if images_per_prompt > 1 and len(set(result)) < len(result):
        raise UserError(
            f"{images_per_prompt} images per prompt have the seeds s, s + 1, ...: the seeds "
            f"{', '.join(map(str, given))} overlap, so give them further apart"
        )
    return result
