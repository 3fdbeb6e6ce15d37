# SPDX-License-Identifier: Apache-2.0
"""How much memory a model needs on a device, estimated without compiling it.

An estimate, not a measurement: weights, plus the arrays that are alive at the worst moment, with
attention in blocks (`models.blockwise`) and nothing else recomputed in the backward pass. A flash
kernel needs less; programs also need working space that is not counted.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from mrti_jax.models.attention import LOGITS
from mrti_jax.models.frozen import Frozen, Params
from mrti_jax.models.text_encoder import TextStates
from mrti_jax.models.unet import NUM_SIZES, UNet2DConditionModel, UNetConfig
from mrti_jax.models.vae import VAEConfig

# Whole activations alive at once where nothing is kept: input, output, shortcut, one in between.
_ALIVE = 4
# Softmax is in float32 whatever the dtype.
_LOGIT_BYTES = 4
# Of a block of attention in the backward pass: weights, their gradient, the logits' gradient.
_LOGITS_ALIVE = 3
# Text states with and without the prompt (classifier-free guidance).
_GUIDED = 2


def sampling_bytes(
    unet: UNetConfig, vae: VAEConfig, weights: int, itemsize: int, vae_itemsize: int
) -> int:
    """Bytes to draw one picture of the model's size with guidance.

    Args:
        weights: bytes of all weights.
        itemsize: bytes per number in the U-Net.
        vae_itemsize: bytes per number in the autoencoder.
    """
    denoising = skips = 0
    for level, channels in enumerate(unet.block_out_channels):
        activation = _GUIDED * _tokens(unet, level) * channels * itemsize
        logits = _logit_bytes(unet, level, _GUIDED)
        denoising = max(denoising, logits + _ALIVE * activation)
        skips += (unet.layers_per_block + 1) * activation
    side = unet.sample_size * vae.downscale
    return weights + max(denoising + skips, decoding_bytes(vae, side, side, vae_itemsize))


def decoding_bytes(vae: VAEConfig, height: int, width: int, itemsize: int) -> int:
    """Bytes to decode one picture of `height` by `width` pixels, without the weights.

    Args:
        itemsize: bytes per number in the autoencoder.
    """
    pixels = height * width
    # The second level's channels arrive at the first one's size.
    widest = vae.block_out_channels[min(1, len(vae.block_out_channels) - 1)]
    logits = min((pixels // vae.downscale**2) ** 2, LOGITS)
    return max(_ALIVE * pixels * widest * itemsize, logits * _LOGIT_BYTES)


def training_bytes(unet: UNetConfig, kept: int, weights: int) -> int:
    """Bytes to train on one example at a time, at the model's size; the table itself is negligible.

    Args:
        kept: bytes that the gradient keeps for it, see `kept_bytes`.
        weights: bytes of the weights of the text encoder and the U-Net.
    """
    logits = max(_logit_bytes(unet, level, 1) for level in range(len(unet.block_out_channels)))
    return weights + kept + _LOGITS_ALIVE * logits


def kept_bytes(
    unet: Frozen[UNet2DConditionModel],
    latent_shape: tuple[int, int, int],
    text_length: int,
    num_devices: int = 1,
) -> int:
    """Bytes that the gradient in the text states keeps on a device per example.

    The difference between two examples on each device and one, so that weights don't count.

    Args:
        unet: with weights or just their shapes.
        latent_shape: (h, w, c) of one example.
        text_length: tokens of a prompt.
        num_devices: devices that share a batch.
    """

    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), unet.params)
    leaves, structure = jax.tree.flatten(weights)
    return _kept_bytes(
        unet.config,
        unet.graphdef,
        structure,
        tuple(leaves),
        latent_shape,
        text_length,
        num_devices,
    )


@functools.lru_cache(maxsize=8)  # tracing a large U-Net takes seconds
def _kept_bytes(
    config: UNetConfig,
    graphdef: nnx.GraphDef[UNet2DConditionModel],
    structure: jax.tree_util.PyTreeDef,
    weights: tuple[jax.ShapeDtypeStruct, ...],
    latent_shape: tuple[int, int, int],
    text_length: int,
    num_devices: int,
) -> int:
    unet = Frozen(config, graphdef, jax.tree.unflatten(structure, weights))

    def kept(batch: int) -> int:
        def gradient(
            params: Params, latents: Array, timesteps: Array, states: TextStates, sizes: Array
        ) -> object:
            module = unet.bind(params)

            def predict(states: TextStates) -> Array:
                return module(latents, timesteps, states.hidden, states.pooled, sizes)

            return jax.vjp(predict, states)[1]

        def floats(*shape: int) -> Any:
            return jax.ShapeDtypeStruct((batch, *shape), jnp.float32)

        pooled = None if unet.config.pooled_dim is None else floats(unet.config.pooled_dim)
        states = TextStates(floats(text_length, unet.config.cross_attention_dim), pooled)
        leaves = jax.tree.leaves(
            jax.eval_shape(
                gradient, unet.params, floats(*latent_shape), floats(), states, floats(NUM_SIZES)
            )
        )
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)

    return (kept(2 * num_devices) - kept(num_devices)) // num_devices


def _tokens(unet: UNetConfig, level: int) -> int:
    return (unet.sample_size // 2**level) ** 2


def _logit_bytes(unet: UNetConfig, level: int, batch: int) -> int:
    """Bytes of the block of attention computed at a time; 0 at a level without attention."""
    if not unet.down_block_types[level].startswith("CrossAttn"):
        return 0
    logits = batch * unet.num_heads[level] * _tokens(unet, level) ** 2
    return min(logits, LOGITS) * _LOGIT_BYTES
