# SPDX-License-Identifier: Apache-2.0
"""How much memory a model needs on a device, estimated from its configs without compiling it.

An estimate, not a measurement: weights, plus the arrays that are alive at the worst moment, as if
attention writes out its matrix and nothing is recomputed in the backward pass. Tuned attention
needs less; programs also need working space that is not counted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mrti_jax.models.unet import UNetConfig
from mrti_jax.models.vae import VAEConfig

# Numbers per position and channel that a transformer block keeps for its backward pass: norms,
# queries, keys, values and outputs of two attentions (10), the feed-forward's gated layer (12).
_TRANSFORMER_KEEPS = 22
# The same of a residual block: norms and convolutions, before and after each activation.
_RESNET_KEEPS = 6
# Whole activations alive at once where nothing is kept: input, output, shortcut, one in between.
_ALIVE = 4
# Softmax is in float32 whatever the dtype.
_LOGIT_BYTES = 4
# Text states with and without the prompt (classifier-free guidance).
_GUIDED = 2


@dataclass(frozen=True)
class Level:
    """A level of the U-Net: its tokens (latents), channels, heads, transformers and their depth."""

    tokens: int
    channels: int
    heads: int
    transformers: int
    depth: int
    resnets: int


def levels(unet: UNetConfig) -> Iterator[Level]:
    """Each level's blocks, down and up together."""
    depths = getattr(unet, "transformer_layers_per_block", 1)
    for i, channels in enumerate(unet.block_out_channels):
        attends = unet.down_block_types[i].startswith("CrossAttn")
        per_level = 2 * unet.layers_per_block + 1
        yield Level(
            tokens=(unet.sample_size // 2**i) ** 2,
            channels=channels,
            heads=unet.num_heads[i],
            transformers=per_level if attends else 0,
            depth=depths[i] if isinstance(depths, tuple) else depths,
            resnets=per_level,
        )


def sampling_bytes(unet: UNetConfig, vae: VAEConfig, weights: int, itemsize: int) -> int:
    """To draw one picture of the model's size with guidance.

    Args:
        weights: bytes of all weights.
        itemsize: bytes of a number.
    """
    denoising = 0
    for level in levels(unet):
        attention = level.heads * level.tokens**2 if level.transformers else 0
        activation = level.tokens * level.channels * itemsize
        denoising = max(denoising, attention * _LOGIT_BYTES + _ALIVE * activation)
    skips = sum(level.resnets * level.tokens * level.channels for level in levels(unet)) * itemsize
    side = unet.sample_size * vae.downscale
    decoding = decoding_bytes(vae, side, side, itemsize)
    return weights + max(_GUIDED * (denoising + skips), decoding)


def decoding_bytes(vae: VAEConfig, height: int, width: int, itemsize: int) -> int:
    """To decode one picture of so many pixels, beside the weights.

    Args:
        itemsize: bytes of a number of the autoencoder.
    """
    pixels = height * width
    # The second level's channels arrive at the first one's size.
    widest = vae.block_out_channels[min(1, len(vae.block_out_channels) - 1)]
    mid_attention = (pixels // vae.downscale**2) ** 2 * _LOGIT_BYTES
    return max(_ALIVE * pixels * widest * itemsize, mid_attention)


def training_bytes(unet: UNetConfig, weights: int, itemsize: int) -> int:
    """To train on one example at a time, at the model's size; the table itself is negligible.

    Args:
        weights: bytes of the weights of the text encoder and the U-Net.
        itemsize: bytes of a number.
    """
    kept = 0
    for level in levels(unet):
        blocks = level.transformers * level.depth
        kept += blocks * level.heads * level.tokens**2
        keeps = blocks * _TRANSFORMER_KEEPS + level.resnets * _RESNET_KEEPS
        kept += keeps * level.tokens * level.channels
    logits = max(
        level.heads * level.tokens**2 if level.transformers else 0 for level in levels(unet)
    )
    return weights + kept * itemsize + logits * _LOGIT_BYTES


DTYPES: Mapping[str, int] = {"bfloat16": 2, "float32": 4}
"""Bytes of a number in the dtypes that a model can be loaded in."""
