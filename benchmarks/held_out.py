# SPDX-License-Identifier: Apache-2.0
"""The loss of a prompt on fresh pictures of a concept, always with the same noise and times."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mrti_jax.concept import OBJECT_TEMPLATES, Concept, encode_prompts, equal_boundaries
from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.mini.concepts import CONCEPTS, Appearance, photos
from mrti_jax.mini.world import render
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training.latents import encode_moments, sample_latents

SEED = 78  # not that of the photos to learn from
NUM_PICTURES = 8
NUM_TEMPLATES = 4
NUM_TENTHS = 10
PER_TENTH = 8  # points in each tenth of diffusion time


class Grid(NamedTuple):
    """G points. `noisy`, `target` [G, h, w, c]; `timestep`, `tenth`, `template` [G]."""

    noisy: Float[Array, "g h w c"]
    target: Float[Array, "g h w c"]
    timestep: np.ndarray
    tenth: np.ndarray
    template: np.ndarray


def grid(sd: StableDiffusion, appearance: Appearance) -> Grid:
    """Points that are spread evenly over time, pictures and templates."""
    rng = np.random.default_rng((SEED, list(CONCEPTS).index(appearance.name)))
    size = sd.unet.config.sample_size * sd.vae.config.downscale
    scenes = photos(appearance, NUM_PICTURES, rng=rng)
    pixels = np.stack([render(scene, size) for scene in scenes])
    moments = encode_moments(sd.vae, pixels, sd.mesh, flip=False)[0]

    schedule = _schedule(sd)
    count = NUM_TENTHS * PER_TENTH
    index = np.arange(count)
    timestep = ((2 * index + 1) * schedule.num_train_timesteps) // (2 * count)
    shape = (count, *moments.shape[1:3], moments.shape[3] // 2)
    latent_noise, noise = rng.standard_normal((2, *shape), np.float32)
    latents = sample_latents(
        moments[index % NUM_PICTURES], latent_noise, float(sd.vae.config.scaling_factor)
    )
    return Grid(
        schedule.add_noise(latents, jnp.asarray(noise), jnp.asarray(timestep)),
        schedule.target(latents, jnp.asarray(noise), jnp.asarray(timestep)),
        timestep,
        index // PER_TENTH,
        (index // NUM_PICTURES + index) % NUM_TEMPLATES,  # another one when a picture recurs
    )


def held_out_loss(
    sd: StableDiffusion, points: Grid, word: str, concept: Concept | None = None
) -> Float[np.ndarray, "tenths"]:
    """Mean squared error in each tenth of diffusion time, with `word` in the templates: words, or
    `<name>` of the concept."""
    texts = [template.format(word) for template in OBJECT_TEMPLATES[:NUM_TEMPLATES]]
    concepts = {} if concept is None else {concept.name: concept}
    boundaries = equal_boundaries(NUM_TENTHS, _schedule(sd).num_train_timesteps)
    encoded = encode_prompts(texts, concepts, sd.tokenizers, sd.text_encoder, boundaries)
    states = encoded.of(np.arange(len(texts)))
    context = states.hidden[points.tenth, points.template]
    errors = _errors(sd.unet.graphdef, sd.unet.params, points, context)
    return np.asarray(errors).reshape(NUM_TENTHS, PER_TENTH).mean(1)


@functools.partial(jax.jit, static_argnums=0)
def _errors(
    graphdef: nnx.GraphDef, params: Any, points: Grid, context: Float[Array, "g l d"]
) -> Float[Array, "g"]:
    unet = nnx.merge(graphdef, nnx.State(params))
    prediction = unet(points.noisy, points.timestep, context).astype(jnp.float32)
    return jnp.mean(jnp.square(prediction - points.target), axis=(1, 2, 3))


def _schedule(sd: StableDiffusion) -> NoiseSchedule:
    return NoiseSchedule.from_config(sd.scheduler_config)
