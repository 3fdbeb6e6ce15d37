# SPDX-License-Identifier: Apache-2.0
"""Prompts and concepts -> pictures: checks, text states, batches of the compiled loop."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8

from mrti_jax.concept import (
    Concept,
    Nothing,
    bucket_from_boundaries,
    by_name,
    encode_prompts,
    read_prompt,
    rows,
    slot_boundaries,
)
from mrti_jax.diffusion import NoiseSchedule, Sampler, make_sampler, sampler_from_config
from mrti_jax.errors import UserError, warn
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import memory_limit
from mrti_jax.sampling.loop import MAX_SEED, draw, make_program
from mrti_jax.sampling.memory import VAESlicing, needs_slicing


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, and what it takes to draw it again (JSON values)."""

    image: UInt8[np.ndarray, "H W 3"]
    parameters: dict[str, Any]


def generate(
    sd: StableDiffusion,
    prompts: str | Sequence[str],
    concepts: Iterable[Concept] = (),
    *,
    seeds: int | Sequence[int] = 0,
    images_per_prompt: int = 1,
    num_steps: int = 50,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
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
    progress: Callable[[int, int], object] | None = None,
) -> list[Picture]:
    """Draws each prompt with each seed: all pictures of the first prompt, then of the second, ...

    Another prompt, seed, guidance scale or concept compiles nothing anew, as long as the number
    of pictures, their size, the sampler and the number of steps stay.

    Args:
        concepts: what the words in the prompts, such as `<jane[3]>`, may name.
        seeds: a picture's noise is a function of its seed alone, whatever is drawn beside it.
        images_per_prompt: pictures per seed; they have the seeds s, s + 1, ...
        guidance_scale: classifier-free guidance; 1 or less is none.
        guidance_rescale: how far guided predictions are scaled back to the spread of unguided ones,
            0 to 1; 0.7 where a model's noise schedule ends in pure noise, lest pictures glare.
        negative_prompt: what to guide away from, in the same language; one, or one per prompt.
        height, width: pixels, multiples of the VAE's factor; the model's own size if not given.
        original_size, crop, target_size: (height, width), (top, left) and (height, width) that SDXL
            is told of: the picture is to look as if an original of that size had been scaled and
            cut there to the target. The picture's own size, uncut, if not given.
        sampler: a name of `mrti_jax.diffusion.SAMPLERS`; the model's own if not given.
        eta: DDIM's share of fresh noise, 0 to 1.
        nothing: what stands in place of a word that has no row in a step.
        official_semi: `<jane(k)>` as in the code of the paper's authors, without bucket k itself.
        batch_size: the most pictures drawn at once, see `pictures_at_once`.
        vae_slicing: whether each device decodes its pictures of a batch one after the other, which
            takes less memory; "auto" does where the batch is estimated not to fit.
        progress: called with the number of pictures done and of all, before and after each batch.

    Raises:
        UserError: a word, a concept, a size, a seed or an option that can't be used.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    negatives = _per_prompt(negative_prompt, len(prompts))
    all_seeds = expand_seeds(seeds, images_per_prompt)
    if not prompts:
        raise UserError("there is no prompt to draw")
    if not 0 <= guidance_rescale <= 1:
        raise UserError(f"guidance_rescale is {guidance_rescale}, it must lie between 0 and 1")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, it must be 1 or more")
    height, width = picture_size(sd, height, width)
    sizes = told_sizes(sd, (height, width), original_size, crop, target_size)
    table = by_name(concepts)
    schedule = NoiseSchedule.from_config(sd.scheduler_config)
    sampler = sampler or sampler_from_config(sd.scheduler_config)
    options = {"eta": eta} if eta else {}
    solver = make_sampler(sampler, sd.scheduler_config, **options)
    steps = solver.plan(schedule, num_steps)

    boundaries = slot_boundaries(table.values(), schedule.num_train_timesteps)
    guided = guidance_scale > 1
    texts = list(dict.fromkeys([*prompts, *(negatives if guided else [])]))
    states = encode_prompts(
        texts,
        table,
        sd.tokenizers,
        sd.text_encoder,
        boundaries,
        nothing=nothing,
        official_semi=official_semi,
    )
    if sd.zeros_for_empty_prompt:  # the last of the text states, to guide away from
        states = jax.tree.map(lambda x: np.append(x, np.zeros_like(x[:, :1]), axis=1), states)
    warn_of_skipped_buckets(texts, table, schedule, solver, num_steps, official_semi)
    slots = np.asarray(bucket_from_boundaries(np.asarray(steps.timesteps), boundaries))

    jobs = [(index, seed) for index in range(len(prompts)) for seed in all_seeds]
    passes = [[texts.index(prompts[index])] for index, _ in jobs]
    if guided:
        away = [
            -1 if sd.zeros_for_empty_prompt and not negative else texts.index(negative)
            for negative in negatives
        ]
        passes = [[away[index], *own] for (index, _), own in zip(jobs, passes, strict=True)]
    size = _batch_length(len(jobs), pictures_at_once(sd.mesh, batch_size), sd.mesh.size)
    limit = memory_limit(sd.mesh.local_devices[0])
    sliced = needs_slicing(sd, vae_slicing, height, width, size, limit)
    program = make_program(sd, solver, height, width, vae_slicing=sliced)
    images: list[np.ndarray] = []
    if progress:
        progress(0, len(jobs))
    for start in range(0, len(jobs), size):
        count = min(size, len(jobs) - start)
        picked = [min(start + i, len(jobs) - 1) for i in range(size)]  # the last one fills up
        chosen = np.asarray([passes[i] for i in picked])
        batch = draw(
            program,
            sd,
            jax.tree.map(lambda x, chosen=chosen: x[:, chosen], states),
            sizes,
            steps,
            slots,
            np.asarray([jobs[i][1] for i in picked], np.uint32),
            guidance_scale,
            guidance_rescale,
        )
        images += list(batch[:count])
        if progress:
            progress(start + count, len(jobs))

    shared = {
        "model": sd.name,
        "dtype": sd.dtype.name,
        "sampler": sampler,
        "num_steps": num_steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "height": height,
        "width": width,
        "eta": eta,
        "nothing": nothing,
        "official_semi": official_semi,
    }
    if sd.unet.config.pooled_dim is not None:
        told = sizes.tolist()
        shared |= {"original_size": told[:2], "crop": told[2:4], "target_size": told[4:]}
    return [
        Picture(
            image,
            {"prompt": prompts[index], "negative_prompt": negatives[index], "seed": seed}
            | shared
            | {"concepts": fingerprints((prompts[index], negatives[index]), table)},
        )
        for image, (index, seed) in zip(images, jobs, strict=True)
    ]


def pictures_at_once(mesh: Mesh, batch_size: int) -> int:
    """The most pictures drawn at once: `batch_size`, but on CPUs one per device.

    XLA sums in another order for another length of the batch, so there, where a longer one gains
    little, all pictures come from one shape: each is the same to the bit whatever is drawn with it.
    """
    return mesh.size if mesh.devices.flat[0].platform == "cpu" else batch_size


def expand_seeds(seeds: int | Sequence[int], images_per_prompt: int = 1) -> list[int]:
    """Every seed s as s, s + 1, ... s + images_per_prompt - 1. Raises UserError."""
    given = [seeds] if isinstance(seeds, int | np.integer) else list(seeds)
    if images_per_prompt < 1 or not given:
        raise UserError("there is nothing to draw: give at least one seed and one image per prompt")
    result = [int(seed) + i for seed in given for i in range(images_per_prompt)]
    wrong = [seed for seed in result if not 0 <= seed <= MAX_SEED]
    if wrong:
        raise UserError(f"a seed lies between 0 and {MAX_SEED}, not {wrong[0]}")
    if images_per_prompt > 1 and len(set(result)) < len(result):
        raise UserError(
            f"{images_per_prompt} images per prompt have the seeds s, s + 1, ...: the seeds "
            f"{', '.join(map(str, given))} overlap, so give them further apart"
        )
    return result


def picture_size(sd: StableDiffusion, height: int | None, width: int | None) -> tuple[int, int]:
    """The size to draw in pixels, the model's own where not given. Raises UserError."""
    factor = sd.vae.config.downscale
    own = sd.unet.config.sample_size * factor
    sizes = {"height": own if height is None else height, "width": own if width is None else width}
    for name, value in sizes.items():
        if value < 1 or value % factor:
            below = max(value // factor, 0) * factor
            near = f"{below} or {below + factor}" if below else str(factor)
            raise UserError(
                f"{name} {value} is not a multiple of {factor}, this model's pixels per latent: "
                f"take {near}"
            )
    return sizes["height"], sizes["width"]


def told_sizes(
    sd: StableDiffusion,
    size: tuple[int, int],
    original_size: tuple[int, int] | None,
    crop: tuple[int, int],
    target_size: tuple[int, int] | None,
) -> Int32[np.ndarray, "6"]:
    """What SDXL is told of the picture, as in `Photo.sizes`. Raises UserError."""
    told = (*(original_size or size), *crop, *(target_size or size))
    if sd.unet.config.pooled_dim is None and told != (*size, 0, 0, *size):
        raise UserError(
            f"model '{sd.name}' isn't told of original_size, crop and target_size, only SDXL is: "
            "leave them out"
        )
    if min(told) < 0:
        raise UserError(f"original_size, crop and target_size can't be negative: {told}")
    return np.asarray(told, np.int32)


def warn_of_skipped_buckets(
    texts: Iterable[str],
    concepts: Mapping[str, Concept],
    schedule: NoiseSchedule,
    sampler: Sampler,
    num_steps: int,
    official_semi: bool = False,
) -> None:
    """Warns of rows that a word asks for in buckets where no step of the sampler falls."""
    told = set()
    for word in [word for text in texts for word in read_prompt(text, concepts).words]:
        concept = concepts[word.name]
        wanted = rows(word, concept.num_buckets, official_semi)

        def skipped(count: int, wanted: Any = wanted, concept: Concept = concept) -> list[int]:
            timesteps = np.asarray(sampler.plan(schedule, count).timesteps)
            met = set(np.asarray(bucket_from_boundaries(timesteps, concept.boundaries)).tolist())
            used = {wanted[bucket] for bucket in met}
            return [b for b, row in enumerate(wanted) if row is not None and row not in used]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sampler has said its own once already
            missing = skipped(num_steps)
            if not missing or word in told:
                continue
            told.add(word)
            enough = None
            for count in range(num_steps + 1, schedule.num_train_timesteps + 1):
                try:
                    if not skipped(count):
                        enough = count
                        break
                except UserError:
                    break
        plural = "s" if len(missing) > 1 else ""
        warn(
            f"{num_steps} steps skip bucket{plural} {', '.join(map(str, missing))} of {word}: what "
            "is learned there has no effect"
            + (f"; {enough} steps reach all of them" if enough else "")
        )


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
    """Pictures per batch: as even as can be, so that little is drawn in vain, in one shape."""
    num_batches = -(-num_pictures // batch_size)
    per_batch = -(-num_pictures // num_batches)
    return -(-per_batch // num_devices) * num_devices
