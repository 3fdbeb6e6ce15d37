# SPDX-License-Identifier: Apache-2.0
"""When a batch is decoded one picture after the other, what that saves, and that none changes."""

from functools import partial

import jax
import numpy as np
from tiny import PICTURE_SIZE

from mrti_jax.diffusion import make_sampler
from mrti_jax.models.memory import decoding_bytes
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import batch_sharded, place
from mrti_jax.sampling.loop import decode, make_program
from mrti_jax.sampling.memory import VAESlicing, needs_slicing

BATCH = 8  # on two devices


def test_a_batch_that_would_not_fit_is_decoded_one_by_one(tiny_sd: StableDiffusion) -> None:
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny_sd.params))
    needed = weights + 4 * decoding_bytes(tiny_sd.vae.config, PICTURE_SIZE, PICTURE_SIZE, 4)

    def decided(choice: VAESlicing, limit: int | None, batch_size: int = BATCH) -> bool:
        return needs_slicing(tiny_sd, choice, PICTURE_SIZE, PICTURE_SIZE, batch_size, limit)

    assert decided("auto", needed - 1) and not decided("auto", needed)
    assert not decided("auto", None) and not decided("off", 1) and decided("on", None)
    assert not decided("on", 1, batch_size=2)  # one picture on each device


def test_decoding_bytes_are_about_what_decoding_holds(tiny_sd: StableDiffusion) -> None:
    """As the compiler says, which needs up to twice as much, with few optimizations."""
    sampler = make_sampler("ddim", tiny_sd.scheduler_config)
    program = make_program(tiny_sd, sampler, PICTURE_SIZE, PICTURE_SIZE)

    def held(batch: int) -> int:
        latents = jax.ShapeDtypeStruct((batch, *program.latent_shape), np.float32)
        compiled = jax.jit(partial(decode, program)).lower(tiny_sd.vae.params, latents).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    estimated = decoding_bytes(tiny_sd.vae.config, PICTURE_SIZE, PICTURE_SIZE, 4)
    assert estimated < (held(4) - held(2)) / 2 < 3 * estimated


def test_one_by_one_is_the_same_with_less_memory(tiny_sd: StableDiffusion) -> None:
    sampler = make_sampler("ddim", tiny_sd.scheduler_config)
    pixels, temporaries = [], []
    for sliced in (False, True):
        program = make_program(tiny_sd, sampler, PICTURE_SIZE, PICTURE_SIZE, vae_slicing=sliced)
        values = np.random.default_rng(0).standard_normal((BATCH, *program.latent_shape))
        latents = place(values.astype(np.float32), batch_sharded(tiny_sd.mesh))
        lowered = jax.jit(partial(decode, program)).lower(tiny_sd.vae.params, latents)
        compiled = lowered.compile()
        images, finite = compiled(tiny_sd.vae.params, latents)
        assert finite.shape == (BATCH,) and finite.all()
        pixels.append(np.asarray(images).astype(int))
        temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
    # A grey level where rounding tips it: the order of sums differs in another batch.
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    assert len({picture.tobytes() for picture in pixels[1]}) == BATCH
    assert temporaries[1] < 0.5 * temporaries[0]
