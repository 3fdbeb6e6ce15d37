# SPDX-License-Identifier: Apache-2.0
"""The sampling program for shapes instead of arrays, to compile it where it can't run."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrti_jax.concept import NUM_INTERVALS
from mrti_jax.diffusion import NoiseSchedule, Sampler, make_sampler, own_sampler
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.text_encoder import TextStates
from mrti_jax.models.unet import NUM_SIZES
from mrti_jax.parallel.mesh import batch_sharded, replicated
from mrti_jax.planning.tpu_compiler import on_mesh
from mrti_jax.sampling.loop import decode, drawing, make_program


def trace_sampling(
    sd: StableDiffusion, size: int, batch_size: int, num_steps: int, *, vae_slicing: bool
) -> jax.stages.Traced:
    """Drawing `batch_size` pictures with guidance, traced; `sd` may hold shapes only."""
    steps = _plan(sd, num_steps)
    text = sd.text_encoder.config
    per_pass = (NUM_INTERVALS, batch_size, 2)
    hidden = jax.ShapeDtypeStruct(
        (*per_pass, text.max_position_embeddings, text.hidden_size), sd.dtype
    )
    pooled = jax.ShapeDtypeStruct((*per_pass, text.pooled_dim or 0), sd.dtype)
    states = TextStates(hidden, pooled if text.pooled_dim else None)  # type: ignore[arg-type]
    everywhere = replicated(sd.mesh)
    num_calls = count_calls(sd, num_steps)
    return drawing(sd.mesh).trace(
        make_program(sd, _sampler(sd), size, size, vae_slicing=vae_slicing),
        {"unet": sd.unet.params, "vae": sd.vae.params},
        on_mesh(states, batch_sharded(sd.mesh, axis=1)),
        on_mesh(np.zeros(NUM_SIZES, np.int32), everywhere),
        on_mesh(jax.tree.map(np.asarray, steps), everywhere),
        on_mesh(np.zeros(num_calls, np.int32), everywhere),
        on_mesh(np.zeros(num_calls, np.float32), everywhere),
        on_mesh(np.zeros(batch_size, np.uint32), batch_sharded(sd.mesh)),
        on_mesh(np.float32(0), everywhere),
    )


def trace_decoding(sd: StableDiffusion, size: int, batch_size: int) -> jax.stages.Traced:
    """The last part of the sampling program alone, traced: latents -> pixels, all at once."""
    program = make_program(sd, _sampler(sd), size, size)
    latents = jax.ShapeDtypeStruct((batch_size, *program.latent_shape), jnp.float32)
    return jax.jit(partial(decode, program)).trace(
        sd.vae.params, on_mesh(latents, batch_sharded(sd.mesh))
    )


def count_calls(sd: StableDiffusion, num_steps: int) -> int:
    """How often the model's own sampler calls the U-Net."""
    return len(_plan(sd, num_steps).timesteps)


def _sampler(sd: StableDiffusion) -> Sampler:
    return make_sampler(own_sampler(sd.scheduler_config)[0], sd.scheduler_config)


def _plan(sd: StableDiffusion, num_steps: int) -> Any:
    return _sampler(sd).plan(NoiseSchedule.from_config(sd.scheduler_config), num_steps)
