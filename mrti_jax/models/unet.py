# SPDX-License-Identifier: Apache-2.0
"""UNet2DConditionModel (Rombach et al. 2022, section 3.3): the denoiser. Layout NHWC."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from mrti_jax.errors import UserError
from mrti_jax.models.config import check_divides, one_for_all, read_config
from mrti_jax.models.layers import Downsample2D, ResnetBlock2D, Upsample2D, conv, group_norm, linear
from mrti_jax.models.transformer import Transformer2DModel

NUM_SIZES = 6
# diffusers also takes a list for these; here all its elements must be the same.
_ONE_FOR_ALL = {"sample_size", "layers_per_block", "cross_attention_dim"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The fields of a U-Net's `config.json` that decide what it computes."""

    sample_size: int = 64
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    transformer_layers_per_block: int | tuple[int, ...] = 1
    cross_attention_dim: int = 1280
    # The number of heads, despite its name, which diffusers keeps for its old checkpoints.
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: Literal[0, 1] = 0
    # SDXL: "text_time", sines and cosines for each size, and the length of the whole vector.
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Attention heads at each level."""
        return self._per_level(self.attention_head_dim)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer blocks of one spatial transformer at each level."""
        return self._per_level(self.transformer_layers_per_block)

    @property
    def pooled_dim(self) -> int | None:
        """Width of the pooled text that it takes along with the sizes; None if it takes neither."""
        if self.addition_embed_type is None:
            return None
        assert self.projection_class_embeddings_input_dim and self.addition_time_embed_dim
        return self.projection_class_embeddings_input_dim - NUM_SIZES * self.addition_time_embed_dim

    def _per_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], where: str) -> "UNetConfig":
        """From the JSON object of `config.json`; UserError for what is not supported."""
        given = {key: one_for_all(config[key]) for key in _ONE_FOR_ALL & config.keys()}
        if given.get("sample_size", 0) is None:  # of XL, and of the others
            given["sample_size"] = 128 if config.get("addition_embed_type") else 64
        result = read_config(
            cls,
            {**config, **given},
            where=where,
            only={
                "_class_name": "UNet2DConditionModel",
                "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                "mid_block_type": "UNetMidBlock2DCrossAttn",
                "act_fn": "silu",
                "downsample_padding": 1,
                "center_input_sample": False,
                "only_cross_attention": False,
                "dual_cross_attention": False,
                "cross_attention_norm": None,
                "num_attention_heads": None,
                "reverse_transformer_layers_per_block": None,
                "class_embed_type": None,
                "encoder_hid_dim": None,
                "num_class_embeds": None,
                "resnet_time_scale_shift": "default",
                "resnet_out_scale_factor": 1,
                "resnet_skip_time_act": False,
                "mid_block_scale_factor": 1,
                "time_embedding_type": "positional",
                "time_embedding_act_fn": None,
                "timestep_post_act": None,
                "time_cond_proj_dim": None,
                "conv_in_kernel": 3,
                "conv_out_kernel": 3,
                "attention_type": "default",
            },
        )
        # Early files of 1.x have it too small, and diffusers' pipelines put it right.
        if re.match(r"0\.[0-8]\b", str(config.get("_diffusers_version"))):
            result = dataclasses.replace(result, sample_size=max(result.sample_size, 64))
        widths = result.block_out_channels
        for key, levels in {
            "down_block_types": result.down_block_types,
            "up_block_types": result.up_block_types,
            "attention_head_dim": result.num_heads,
            "transformer_layers_per_block": result.depths,
        }.items():
            if len(levels) != len(widths):
                raise UserError(f"{where}: {key} differs in length from block_out_channels")
        check_divides(
            where, "norm_num_groups", result.norm_num_groups, "block_out_channels", widths
        )
        if result.in_channels != result.out_channels:
            raise UserError(
                f"{where}: in_channels = {result.in_channels}, but out_channels = "
                f"{result.out_channels}"
            )
        for width, heads in zip(widths, result.num_heads, strict=True):
            check_divides(where, "attention_head_dim", heads, "block_out_channels", [width])
        kind = result.addition_embed_type
        for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
            if kind and not getattr(result, key):
                raise UserError(f"{where}: addition_embed_type is {kind!r}, but {key} is missing")
        if result.pooled_dim is not None and result.pooled_dim <= 0:
            raise UserError(
                f"{where}: projection_class_embeddings_input_dim = "
                f"{result.projection_class_embeddings_input_dim} is not more than {NUM_SIZES} "
                f"times addition_time_embed_dim = {result.addition_time_embed_dim}"
            )
        return result


def timestep_embedding(
    timesteps: Num[Array, "b"], width: int, *, flip_sin_to_cos: bool, freq_shift: int
) -> Float[Array, "b e"]:
    """Sines and cosines of the timesteps at `width // 2` frequencies (Ho et al. 2020), float32;
    an odd width ends with a zero."""
    half = width // 2
    exponent = -math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None, :]
    parts = [jnp.cos(angles), jnp.sin(angles)]
    parts = parts if flip_sin_to_cos else parts[::-1]
    return jnp.concatenate([*parts, jnp.zeros((len(timesteps), width % 2))], axis=-1)


class TimestepEmbedding(nnx.Module):
    """Two linear layers that embed sinusoids, [B, inputs] -> [B, outputs]."""

    def __init__(self, inputs: int, outputs: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.linear_1 = linear(inputs, outputs, dtype=dtype, rngs=rngs)
        self.linear_2 = linear(outputs, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b e"]:
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class UNetLevel(nnx.Module):
    """What a down, mid or up block is made of: residual blocks, transformers, a resampler.

    With `remat` the gradient keeps only the inputs of residual blocks and transformers, and
    recomputes the rest: half the memory for a third more arithmetic.
    """

    def __init__(
        self,
        config: UNetConfig,
        channels: list[tuple[int, int]],
        num_transformers: int,
        num_heads: int,
        depth: int,
        resample: str | None,
        *,
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        width = channels[-1][1]
        self.remat = False
        self.resnets = nnx.List(
            [
                ResnetBlock2D(
                    inputs,
                    outputs,
                    groups=config.norm_num_groups,
                    eps=config.norm_eps,
                    time_dim=4 * config.block_out_channels[0],
                    dtype=dtype,
                    rngs=rngs,
                )
                for inputs, outputs in channels
            ]
        )
        self.has_attention = num_transformers > 0
        if self.has_attention:
            self.attentions = nnx.List(
                [
                    Transformer2DModel(
                        width,
                        config.cross_attention_dim,
                        num_heads,
                        depth=depth,
                        groups=config.norm_num_groups,
                        use_linear_projection=config.use_linear_projection,
                        dtype=dtype,
                        rngs=rngs,
                    )
                    for _ in range(num_transformers)
                ]
            )
        self.resample = resample
        if resample == "down":
            self.downsamplers = nnx.List([Downsample2D(width, 1, dtype=dtype, rngs=rngs)])
        if resample == "up":
            self.upsamplers = nnx.List([Upsample2D(width, dtype=dtype, rngs=rngs)])

    def run(self, layer: nnx.Module, *args: Array) -> Array:
        """Runs one of the layers, with or without `remat`."""
        return jax.checkpoint(lambda *args: layer(*args))(*args) if self.remat else layer(*args)


class DownBlock(UNetLevel):
    """A level on the way down, [B, H, W, C] -> [B, H/2, W/2, O] (the last level keeps H and W)."""

    def __call__(
        self, x: Array, time: Array, context: Float[Array, "b l d"]
    ) -> tuple[Array, list[Array]]:
        """The block's output, and the activations that the up blocks will need."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = self.run(resnet, x, time)
            if self.has_attention:
                x = self.run(self.attentions[i], x, context)
            skips.append(x)
        if self.resample:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(UNetLevel):
    """A residual block, a transformer and a residual block, [B, H, W, C] -> [B, H, W, C]."""

    def __call__(self, x: Array, time: Array, context: Float[Array, "b l d"]) -> Array:
        x = self.run(self.resnets[0], x, time)
        x = self.run(self.attentions[0], x, context)
        return self.run(self.resnets[1], x, time)


class UpBlock(UNetLevel):
    """A level on the way up, [B, H, W, C] -> [B, 2H, 2W, O] (the last level keeps H and W)."""

    def __call__(
        self, x: Array, skips: list[Array], time: Array, context: Float[Array, "b l d"]
    ) -> Array:
        """Takes its part off the end of `skips`."""
        for i, resnet in enumerate(self.resnets):
            x = self.run(resnet, jnp.concatenate([x, skips.pop()], axis=-1), time)
            if self.has_attention:
                x = self.run(self.attentions[i], x, context)
        if self.resample:
            height, width = skips[-1].shape[1:3]
            x = self.upsamplers[0](x, (height, width))
        return x


class UNet2DConditionModel(nnx.Module):
    """Predicts epsilon or v from noisy latents, timesteps and text states."""

    def __init__(self, config: UNetConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        widths, heads, depths = config.block_out_channels, config.num_heads, config.depths
        layers, last = config.layers_per_block, len(widths) - 1
        self.config = config
        self.conv_in = conv(config.in_channels, widths[0], dtype=dtype, rngs=rngs)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0], dtype=dtype, rngs=rngs)
        if config.addition_embed_type is not None:
            added = config.projection_class_embeddings_input_dim
            assert added is not None
            self.add_embedding = TimestepEmbedding(added, 4 * widths[0], dtype=dtype, rngs=rngs)

        self.down_blocks: nnx.List[DownBlock] = nnx.List([])
        for i, kind in enumerate(config.down_block_types):
            first = widths[max(i - 1, 0)]
            channels = [(first if j == 0 else widths[i], widths[i]) for j in range(layers)]
            transformers = layers if kind == "CrossAttnDownBlock2D" else 0
            resample = "down" if i < last else None
            self.down_blocks.append(
                DownBlock(
                    config,
                    channels,
                    transformers,
                    heads[i],
                    depths[i],
                    resample,
                    dtype=dtype,
                    rngs=rngs,
                )
            )

        channels = [(widths[-1], widths[-1])] * 2
        self.mid_block = MidBlock(
            config, channels, 1, heads[-1], depths[-1], None, dtype=dtype, rngs=rngs
        )

        self.up_blocks: nnx.List[UpBlock] = nnx.List([])
        for i, kind in enumerate(config.up_block_types):
            level = last - i
            width = widths[level]
            inputs = [widths[min(level + 1, last)]] + [width] * layers
            skips = [width] * layers + [widths[max(level - 1, 0)]]
            channels = [(a + b, width) for a, b in zip(inputs, skips, strict=True)]
            transformers = layers + 1 if kind == "CrossAttnUpBlock2D" else 0
            resample = "up" if i < last else None
            self.up_blocks.append(
                UpBlock(
                    config,
                    channels,
                    transformers,
                    heads[level],
                    depths[level],
                    resample,
                    dtype=dtype,
                    rngs=rngs,
                )
            )

        self.conv_norm_out = group_norm(
            widths[0], config.norm_num_groups, config.norm_eps, dtype=dtype, rngs=rngs
        )
        self.conv_out = conv(widths[0], config.out_channels, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Num[Array, "b"],
        context: Float[Array, "b l d"],
        pooled: Float[Array, "b p"] | None = None,
        sizes: Num[Array, "b s"] | None = None,
    ) -> Float[Array, "b h w o"]:
        """The prediction, in the weights' dtype. Timesteps may be fractional.

        SDXL (Podell et al. 2023, arXiv 2307.01952, section 2.2) also takes the pooled text and the
        `sizes` in pixels: original height and width, top and left of the crop, target height and
        width. Others ignore both.
        """
        dtype = self.conv_in.kernel.get_value().dtype
        time = self.embed_time(timesteps)
        if self.config.addition_embed_type is not None:
            assert pooled is not None and sizes is not None and sizes.shape[1] == NUM_SIZES
            assert self.config.addition_time_embed_dim is not None
            told = self._sinusoids(sizes.reshape(-1), self.config.addition_time_embed_dim)
            added = jnp.concatenate([pooled, told.reshape(len(sizes), -1)], axis=-1, dtype=dtype)
            time += self.add_embedding(added)
        context = context.astype(dtype)
        x = self.conv_in(latents.astype(dtype))
        skips = [x]
        for block in self.down_blocks:
            x, new = block(x, time, context)
            skips += new
        x = self.mid_block(x, time, context)
        for up_block in self.up_blocks:
            x = up_block(x, skips, time, context)
        return self.conv_out(self.conv_norm_out(x, jax.nn.silu))

    def embed_time(self, timesteps: Num[Array, "b"]) -> Float[Array, "b e"]:
        """The embedding of the timesteps that the blocks take, in the weights' dtype."""
        sinusoids = self._sinusoids(timesteps, self.config.block_out_channels[0])
        return self.time_embedding(sinusoids.astype(self.conv_in.kernel.get_value().dtype))

    def _sinusoids(self, values: Num[Array, "n"], width: int) -> Float[Array, "n e"]:
        return timestep_embedding(
            values,
            width,
            flip_sin_to_cos=self.config.flip_sin_to_cos,
            freq_shift=self.config.freq_shift,
        )
