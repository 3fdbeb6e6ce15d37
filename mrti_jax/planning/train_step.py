# SPDX-License-Identifier: Apache-2.0
"""The train step for shapes instead of arrays, to compile it where it can't run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.unet import NUM_SIZES
from mrti_jax.parallel.mesh import make_mesh, replicated
from mrti_jax.planning.tpu_compiler import on_mesh
from mrti_jax.training.config import Config
from mrti_jax.training.slots import fill
from mrti_jax.training.step import Data, frozen_params, initial_state, make_train_step

# How many photos and captions hardly matters for a step's cost.
NUM_PHOTOS, NUM_CAPTIONS = 5, 27


def trace_train_step(
    sd: StableDiffusion, config: Config, size: int, *, remat: bool
) -> jax.stages.Traced:
    """The train step on pictures of `size` pixels, traced; `sd` may hold shapes only."""
    text, vae = sd.text_encoder.config, sd.vae.config
    table = np.zeros(
        (config.concept.num_buckets, config.concept.num_vectors, text.hidden_size), np.float32
    )
    here = make_mesh(jax.devices("cpu")[:1])
    height, width, channels = vae.latent_shape(size, size)

    def integers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.int32)

    captions = integers(NUM_CAPTIONS, len(text.parts), text.max_position_embeddings)
    shapes: Any = (
        jax.ShapeDtypeStruct((1, 1, NUM_PHOTOS, height, width, 2 * channels), jnp.float32),
        integers(1, NUM_PHOTOS, NUM_SIZES),
        captions,
        captions,
        integers(NUM_CAPTIONS, len(text.parts)),
        integers(NUM_PHOTOS),
        integers(NUM_PHOTOS),
        jax.ShapeDtypeStruct((1,), jnp.uint32),
        integers(),
    )
    everywhere = replicated(sd.mesh)
    state = on_mesh(fill(initial_state(table, config.optimizer), 1, here), everywhere)
    step: Any = make_train_step(sd, config, remat=remat)
    data, rates = on_mesh((Data(*shapes), np.zeros(1, np.float32)), everywhere)
    return step.trace(state, frozen_params(sd), data, rates)
