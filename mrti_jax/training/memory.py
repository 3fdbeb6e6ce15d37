# SPDX-License-Identifier: Apache-2.0
"""Whether a train step fits in the devices' memory as it is, or must compute blocks again."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mrti_jax.models.frozen import Params
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.text_encoder import TextStates
from mrti_jax.models.unet import NUM_SIZES
from mrti_jax.parallel.mesh import bytes_on_each
from mrti_jax.training.config import Config

# Beside what the gradient keeps: what the compiler needs meanwhile, and what it can't pack.
SLACK = 1.25
# Concepts at once where the memory is unknown, as on a CPU, which gains nothing by more.
FEW = 8


def needs_remat(
    sd: StableDiffusion,
    config: Config,
    latent_shape: tuple[int, int, int],
    limit: int | None,
    num_slots: int = 1,
) -> bool:
    """What `train.remat` says, and for "auto" whether a step is estimated to need too much memory.

    Args:
        latent_shape: (h, w, c) of one example.
        limit: bytes of memory of a device; None if unknown, then "auto" is no.
        num_slots: of concepts that are trained at once.
    """
    if config.train.remat != "auto" or limit is None:
        return config.train.remat == "blocks"
    part = num_slots * config.train.batch_size // config.train.accumulation
    examples = -(-part // sd.mesh.size)
    return examples > _fitting_examples(sd, latent_shape, limit)


def fitting_concepts(
    sd: StableDiffusion, config: Config, latent_shape: tuple[int, int, int], limit: int | None
) -> int:
    """Concepts whose batches fit together, by the same estimate, without computing blocks again; at
    least 1. The arguments are those of `needs_remat`."""
    if limit is None:
        return FEW
    examples = _fitting_examples(sd, latent_shape, limit) * sd.mesh.size
    part = config.train.batch_size // config.train.accumulation
    return max(1, int(examples // part))


def kept_bytes(sd: StableDiffusion, latent_shape: tuple[int, int, int]) -> int:
    """Bytes that the U-Net's gradient in the text states keeps for one more example.

    The difference between two examples on each device and one, so that weights don't count.
    """
    text = sd.text_encoder.config

    def kept(batch: int) -> int:
        def gradient(
            params: Params, latents: Array, timesteps: Array, states: TextStates, sizes: Array
        ) -> object:
            module = sd.unet.bind(params)

            def predict(states: TextStates) -> Array:
                return module(latents, timesteps, states.hidden, states.pooled, sizes)

            return jax.vjp(predict, states)[1]

        def floats(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((batch, *shape), jnp.float32)

        pooled = None if text.pooled_dim is None else floats(text.pooled_dim)
        states = TextStates(floats(text.max_position_embeddings, text.hidden_size), pooled)  # type: ignore[arg-type]
        kept = jax.eval_shape(
            gradient, sd.unet.params, floats(*latent_shape), floats(), states, floats(NUM_SIZES)
        )
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))

    devices = sd.mesh.size
    return (kept(2 * devices) - kept(devices)) // devices


def _fitting_examples(sd: StableDiffusion, latent_shape: tuple[int, int, int], limit: int) -> float:
    """On each device."""
    return (limit - bytes_on_each(sd.params)) / (SLACK * kept_bytes(sd, latent_shape))
