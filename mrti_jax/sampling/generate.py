# SPDX-License-Identifier: Apache-2.0
"""Prompts and concepts -> pictures: checks, text states, batches of the compiled loop."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Int32, UInt8

from mrti_jax.concept import (
    Concept,
    EncodedPrompts,
    Nothing,
    bucket_from_boundaries,
    by_name,
    encode_prompts,
    interval_boundaries,
    read_prompt,
)
from mrti_jax.diffusion import NoiseSchedule, make_sampler, own_sampler
from mrti_jax.errors import UserError, shorten, warn, whole
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import memory_limit
from mrti_jax.sampling.guidance import EVERYWHERE, scales_of_steps
from mrti_jax.sampling.loop import draw, make_program
from mrti_jax.sampling.memory import VAESlicing, needs_slicing
from mrti_jax.sampling.request import check_request, expand_seeds
from mrti_jax.sampling.size import picture_side, told_sizes
from mrti_jax.sampling.skipped import warn_of_skipped_buckets


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, and what it takes to draw it again (JSON values)."""

    image: UInt8[np.ndarray, "H W 3"] = field(repr=False)
    parameters: dict[str, Any]


def generate(
    sd: StableDiffusion,
    prompts: str | Sequence[str],
    concepts: Concept | Iterable[Concept] = (),
    *,
    seeds: int | Sequence[int] = 0,
    images_per_prompt: int = 1,
    num_steps: int = 50,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    guidance_interval: tuple[float, float] = EVERYWHERE,
    negative_prompt: str | Sequence[str] = "",
    height: int | None = None,
    width: int | None = None,
    original_size: tuple[int, int] | None = None,
    crop: tuple[int, int] = (0, 0),
    target_size: tuple[int, int] | None = None,
    sampler: str | None = None,
    eta: float = 0.0,
    nothing: Nothing = "zero",
    official_semi: bool = False,
    batch_size: int = 8,
    vae_slicing: VAESlicing = "auto",
    on_progress: Callable[[int, int], object] | None = None,
    on_picture: Callable[[Picture], object] | None = None,
) -> list[Picture]:
    """Draws each prompt with each seed: all pictures of the first prompt, then of the second, ...

    Another prompt, seed, guidance scale or concept compiles nothing new. What does: another number
    of pictures, size, sampler or number of steps, guidance where there was none, and concepts whose
    tables have other boundaries (`interval_boundaries`).

    Args:
        concepts: what the words in the prompts, such as `<jane[3]>`, may name.
        seeds: a picture's noise is a function of its seed alone, whatever else is drawn with it.
        images_per_prompt: pictures per seed s; their seeds are s, s + 1, ...
        num_steps: sampling steps; 30 do for the embedded model.
        guidance_scale: classifier-free guidance, 1 or less is none; 3 suits the embedded model.
        guidance_rescale: how far guided predictions are scaled back to the spread of unguided ones,
            0 to 1; 0.7 avoids glaring pictures if a model's noise schedule ends in pure noise.
        guidance_interval: the diffusion times, 0 is no noise and 1 pure noise, at which guidance
            acts. At little noise it can draw detail with too much contrast: (0.2, 1) suits the
            embedded model.
        negative_prompt: what to guide away from, in the same grammar; one, or one per prompt.
        height, width: pixels, multiples of the VAE's factor; the model's own size if not given.
        original_size, crop, target_size: (height, width), (top, left) and (height, width) that SDXL
            is conditioned on: the picture should look as if an original of that size had been
            scaled and cropped there to the target. Its own size, uncropped, if not given.
        sampler: a name in `mrti_jax.diffusion.SAMPLERS`; the model's own if not given, or
            DDIM, with a warning, if that can't be used.
        eta: DDIM's share of fresh noise, 0 to 1.
        nothing: what replaces a word at steps where it has no row.
        official_semi: `<jane(k)>` as in the code of the paper's authors, without bucket k itself.
        batch_size: the most pictures drawn at once, see `pictures_at_once`.
        vae_slicing: whether each device decodes its pictures of a batch one after the other, which
            takes less memory; "auto" does if the batch is estimated not to fit.
        on_progress: called with the numbers of pictures done and in all, at first and after each
            batch.
        on_picture: called with each picture once its batch is drawn, in the order of the result.

    Warns of each picture for which the model gave values that aren't finite.

    Raises:
        UserError: a word, a concept, a size, a seed or an option that can't be used.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise UserError("there is no prompt to draw")
    negatives = _per_prompt(negative_prompt, len(prompts))
    all_seeds = expand_seeds(seeds, images_per_prompt)
    num_steps = whole("the number of steps", num_steps)
    batch_size = whole("the batch size", batch_size)
    guidance_scale, guidance_rescale, eta = map(float, (guidance_scale, guidance_rescale, eta))
    table = by_name(concepts)
    check_request(
        [*prompts, *negatives],
        table,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
        guidance_interval=guidance_interval,
        eta=eta,
        sampler=sampler,
        batch_size=batch_size,
    )
    lower, upper = map(float, guidance_interval)
    guided = guidance_scale > 1
    if not guided and (any(negatives) or guidance_rescale or (lower, upper) != EVERYWHERE):
        warn(
            f"a guidance scale of {guidance_scale:g} means no guidance, so negative prompt, "
            "guidance rescale and guidance interval have no effect"
        )
    height, width = picture_side(sd, "height", height), picture_side(sd, "width", width)
    sizes = told_sizes(sd, (height, width), original_size, crop, target_size)
    schedule = NoiseSchedule.from_config(sd.scheduler_config)
    if sampler is None:
        sampler, problem = own_sampler(sd.scheduler_config)
        if problem:
            warn(f"drawing with {sampler}, not the model's own sampler: {problem}")
    if eta and sampler != "ddim":
        raise UserError("only DDIM has the option eta: leave it out, or use the sampler ddim")
    options = {"eta": eta} if eta else {}
    solver = make_sampler(sampler, sd.scheduler_config, **options)
    steps = solver.plan(schedule, num_steps)
    timesteps = np.asarray(steps.timesteps)
    scales = scales_of_steps(
        timesteps, schedule.num_train_timesteps, guidance_scale, (lower, upper)
    )
    if guided and (scales == 1).all():
        warn(
            f"no step falls into the guidance interval from {lower:g} to {upper:g}, so there is no "
            "guidance: take a longer one, or more steps"
        )

    boundaries = interval_boundaries(table.values(), schedule.num_train_timesteps)
    away = negatives if guided else []
    encoded, passes = _encode(
        sd, prompts, away, table, boundaries, nothing=nothing, official_semi=official_semi
    )
    warn_of_skipped_buckets([*prompts, *away], table, schedule, solver, num_steps, official_semi)
    intervals = np.asarray(bucket_from_boundaries(timesteps, boundaries))

    shared = _about(sd) | {
        "sampler": sampler,
        "num_steps": num_steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "guidance_interval": [lower, upper],
        "height": height,
        "width": width,
        "eta": eta,
        "nothing": nothing,
        "official_semi": official_semi,
    }
    if sd.unet.config.pooled_dim is not None:
        told = sizes.tolist()
        shared |= {"original_size": told[:2], "crop": told[2:4], "target_size": told[4:]}
    named = [fingerprints(pair, table) for pair in zip(prompts, negatives, strict=True)]

    def picture(image: UInt8[np.ndarray, "H W 3"], index: int, seed: int) -> Picture:
        own = {"prompt": prompts[index], "negative_prompt": negatives[index], "seed": seed}
        return Picture(image, own | shared | {"concepts": named[index]})

    jobs = [(index, seed) for index in range(len(prompts)) for seed in all_seeds]
    size = _batch_length(len(jobs), pictures_at_once(sd.mesh, batch_size), sd.mesh.size)
    limit = memory_limit(sd.mesh)
    sliced = needs_slicing(sd, vae_slicing, height, width, size, limit)
    program = make_program(sd, solver, height, width, vae_slicing=sliced)
    pictures: list[Picture] = []
    if on_progress:
        on_progress(0, len(jobs))
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        filled = batch + batch[-1:] * (size - len(batch))
        images, finite = draw(
            program,
            sd,
            encoded.of(passes[[index for index, _ in filled]]),
            sizes,
            steps,
            intervals,
            scales,
            np.asarray([seed for _, seed in filled], np.uint32),
            guidance_rescale,
        )
        for image, is_finite, (index, seed) in zip(images, finite, batch, strict=False):
            if not is_finite:
                warn(
                    f"the picture of {shorten(prompts[index], 80)!r} with seed {seed} is black "
                    "where the model gave no finite numbers: try less guidance, or dtype float32"
                )
            pictures.append(picture(image, index, seed))
            if on_picture:
                on_picture(pictures[-1])
        if on_progress:
            on_progress(len(pictures), len(jobs))
    return pictures


def pictures_at_once(mesh: Mesh, batch_size: int) -> int:
    """The most pictures drawn at once: `batch_size`, shared evenly by the devices, at least one
    each; on CPUs just one each.

    XLA's order of summation depends on the batch's length, so there, where a longer one gains
    little, all are drawn in one shape: each is the same bit for bit whatever is drawn with it.
    """
    on_cpus = mesh.devices.flat[0].platform == "cpu"
    return mesh.size * (1 if on_cpus else max(1, batch_size // mesh.size))


def fingerprints(texts: Iterable[str], concepts: Mapping[str, Concept]) -> dict[str, str]:
    """The concepts that the words of prompts name, each with a hash of its table."""
    words = [word for text in texts for word in read_prompt(text, concepts).words]
    names = dict.fromkeys(word.name for word in words)
    return {
        name: hashlib.sha256(
            concepts[name].embeddings.tobytes() + concepts[name].boundaries.tobytes()
        ).hexdigest()[:16]
        for name in names
    }


def _encode(
    sd: StableDiffusion,
    prompts: Sequence[str],
    negatives: Sequence[str],
    concepts: Mapping[str, Concept],
    boundaries: Int32[np.ndarray, "edges"],
    *,
    nothing: Nothing,
    official_semi: bool,
) -> tuple[EncodedPrompts, Int[np.ndarray, "prompts passes"]]:
    """The text states, and which of them the network is called with for each prompt: its own, after
    that of its negative prompt if there are any."""
    texts = list(dict.fromkeys([*prompts, *negatives]))
    encoded = encode_prompts(
        texts,
        concepts,
        sd.tokenizers,
        sd.text_encoder,
        boundaries,
        nothing=nothing,
        official_semi=official_semi,
    )
    own = [texts.index(prompt) for prompt in prompts]
    if not negatives:
        return encoded, np.asarray(own)[:, None]
    away = [texts.index(negative) for negative in negatives]
    if sd.zeros_for_empty_prompt:
        encoded = encoded.with_zeros()
        away = [index if negatives[i] else -1 for i, index in enumerate(away)]
    return encoded, np.stack([away, own], axis=1)


def _about(sd: StableDiffusion) -> dict[str, Any]:
    """What a picture's parameters tell of the model."""
    options = {key: value for key, value in sd.source.options.items() if value is not None}
    return {"model": sd.source.path, **options, "dtype": sd.dtype.name}


def _per_prompt(negative_prompt: str | Sequence[str], count: int) -> list[str]:
    if isinstance(negative_prompt, str):
        return [negative_prompt] * count
    if len(negative_prompt) != count:
        raise UserError(
            f"there are {len(negative_prompt)} negative prompts for {count} prompts: give one for "
            "all, or one for each"
        )
    return list(negative_prompt)


def _batch_length(num_pictures: int, batch_size: int, num_devices: int) -> int:
    """Pictures per batch: as even as possible, so that few are drawn in vain, in one shape."""
    num_batches = -(-num_pictures // batch_size)
    per_batch = -(-num_pictures // num_batches)
    return -(-per_batch // num_devices) * num_devices
