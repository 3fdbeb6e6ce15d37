# SPDX-License-Identifier: Apache-2.0
"""AutoencoderKL (Rombach et al. 2022, section 3.1): pixels to latents and back. Layout NHWC."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from mrti_jax.models.attention import Attention
from mrti_jax.models.config import check_divides, read_config
from mrti_jax.models.layers import Downsample2D, ResnetBlock2D, Upsample2D, conv, group_norm

EPS = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The fields of a VAE's `config.json` that decide what it computes."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    force_upcast: bool = True
    """Whether its activations overflow or lose too much in 16 bits; only SDXL's do, and diffusers
    heeds it only there (see `read_configs`)."""

    @property
    def downscale(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(h, w, c) of the latents of a picture, whose sides are multiples of `downscale`."""
        return height // self.downscale, width // self.downscale, self.latent_channels

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], where: str) -> "VAEConfig":
        """From the JSON object of `config.json`; UserError for what is not supported."""
        result = read_config(
            cls,
            config,
            where=where,
            only={
                "_class_name": "AutoencoderKL",
                "down_block_types": ["DownEncoderBlock2D"],
                "up_block_types": ["UpDecoderBlock2D"],
                "act_fn": "silu",
                "shift_factor": None,
                "latents_mean": None,
                "latents_std": None,
                "use_quant_conv": True,
                "use_post_quant_conv": True,
                "mid_block_add_attention": True,
            },
        )
        widths = result.block_out_channels
        check_divides(
            where, "norm_num_groups", result.norm_num_groups, "block_out_channels", widths
        )
        return result


class VAEAttention(Attention):
    """Single-head self-attention over all positions, with its own norm and shortcut."""

    def __init__(self, channels: int, groups: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        super().__init__(channels, channels, 1, qkv_bias=True, dtype=dtype, rngs=rngs)
        self.group_norm = group_norm(channels, groups, EPS, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:  # type: ignore[override]
        b, h, w, c = x.shape
        return x + super().__call__(self.group_norm(x).reshape(b, h * w, c)).reshape(b, h, w, c)


class MidBlock(nnx.Module):
    """A residual block, attention and a residual block, [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, channels: int, groups: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.resnets = nnx.List(
            [
                ResnetBlock2D(channels, channels, groups=groups, eps=EPS, dtype=dtype, rngs=rngs)
                for _ in range(2)
            ]
        )
        self.attentions = nnx.List([VAEAttention(channels, groups, dtype=dtype, rngs=rngs)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Block(nnx.Module):
    """Residual blocks, then an optional `downsamplers` or `upsamplers` of one layer."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: int,
        groups: int,
        resample: str | None,
        *,
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.resample = resample
        self.resnets = nnx.List(
            [
                ResnetBlock2D(
                    inputs if i == 0 else outputs,
                    outputs,
                    groups=groups,
                    eps=EPS,
                    dtype=dtype,
                    rngs=rngs,
                )
                for i in range(layers)
            ]
        )
        if resample == "down":
            self.downsamplers = nnx.List([Downsample2D(outputs, 0, dtype=dtype, rngs=rngs)])
        if resample == "up":
            self.upsamplers = nnx.List([Upsample2D(outputs, dtype=dtype, rngs=rngs)])

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        for resnet in self.resnets:
            x = resnet(x)
        if self.resample == "down":
            x = self.downsamplers[0](x)
        if self.resample == "up":
            x = self.upsamplers[0](x)
        return x


class Encoder(nnx.Module):
    """Pixels [B, H, W, C] -> features [B, h, w, 2 * latent_channels]."""

    def __init__(self, config: VAEConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = conv(config.in_channels, widths[0], dtype=dtype, rngs=rngs)
        self.down_blocks = nnx.List(
            [
                Block(
                    widths[max(i - 1, 0)],
                    width,
                    config.layers_per_block,
                    groups,
                    "down" if i < len(widths) - 1 else None,
                    dtype=dtype,
                    rngs=rngs,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], groups, dtype=dtype, rngs=rngs)
        self.conv_norm_out = group_norm(widths[-1], groups, EPS, dtype=dtype, rngs=rngs)
        self.conv_out = conv(widths[-1], 2 * config.latent_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w m"]:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), jax.nn.silu))


class Decoder(nnx.Module):
    """Latents [B, h, w, C] -> pixels [B, H, W, O]."""

    def __init__(self, config: VAEConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = conv(config.latent_channels, widths[0], dtype=dtype, rngs=rngs)
        self.mid_block = MidBlock(widths[0], groups, dtype=dtype, rngs=rngs)
        self.up_blocks = nnx.List(
            [
                Block(
                    widths[max(i - 1, 0)],
                    width,
                    config.layers_per_block + 1,
                    groups,
                    "up" if i < len(widths) - 1 else None,
                    dtype=dtype,
                    rngs=rngs,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = group_norm(widths[-1], groups, EPS, dtype=dtype, rngs=rngs)
        self.conv_out = conv(widths[-1], config.out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b H W o"]:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x, jax.nn.silu))


class AutoencoderKL(nnx.Module):
    """`encode` gives the moments of q(z | pixels), `decode` the pixels of z."""

    def __init__(self, config: VAEConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        channels = config.latent_channels
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)
        self.quant_conv = conv(2 * channels, 2 * channels, 1, dtype=dtype, rngs=rngs)
        self.post_quant_conv = conv(channels, channels, 1, dtype=dtype, rngs=rngs)

    def encode(self, pixels: Float[Array, "b H W c"]) -> Float[Array, "b h w m"]:
        """Pixels in [-1, 1] -> mean and log-variance, one after the other on the last axis.

        Unscaled: multiply a sample of them by the config's `scaling_factor` for the U-Net.
        """
        return self.quant_conv(self.encoder(pixels))

    def decode(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W o"]:
        """Unscaled latents (already divided by `scaling_factor`) -> pixels, about in [-1, 1]."""
        return self.decoder(self.post_quant_conv(latents))
