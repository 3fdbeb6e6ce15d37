# SPDX-License-Identifier: Apache-2.0
"""Convolutions, norms and residual blocks that the U-Net and the autoencoder share. Layout NHWC."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    dtype: jax.typing.DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square convolution with PyTorch's symmetric padding (`kernel // 2` unless given)."""
    pad = kernel // 2 if padding is None else padding
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )


def group_norm(
    channels: int, groups: int, eps: float, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs
) -> nnx.GroupNorm:
    """GroupNorm with float32 statistics."""
    return nnx.GroupNorm(
        channels,
        num_groups=groups,
        epsilon=eps,
        # E[x^2] - E[x]^2 loses 3 digits on activations with a large mean.
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )


class ResnetBlock2D(nnx.Module):
    """Two 3x3 convolutions with a shortcut; the time embedding is added between them."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        eps: float,
        time_dim: int | None = None,
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = group_norm(inputs, groups, eps, dtype=dtype, rngs=rngs)
        self.conv1 = conv(inputs, outputs, dtype=dtype, rngs=rngs)
        if time_dim is not None:
            self.time_emb_proj = nnx.Linear(
                time_dim, outputs, dtype=dtype, param_dtype=dtype, rngs=rngs
            )
        self.norm2 = group_norm(outputs, groups, eps, dtype=dtype, rngs=rngs)
        self.conv2 = conv(outputs, outputs, dtype=dtype, rngs=rngs)
        self.has_shortcut = inputs != outputs
        if self.has_shortcut:
            self.conv_shortcut = conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w i"], time: Float[Array, "b e"] | None = None
    ) -> Float[Array, "b h w o"]:
        hidden = self.conv1(jax.nn.silu(self.norm1(x)))
        if time is not None:
            hidden += self.time_emb_proj(jax.nn.silu(time))[:, None, None, :]
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden)))
        return hidden + (self.conv_shortcut(x) if self.has_shortcut else x)


class Downsample2D(nnx.Module):
    """Halves height and width with a strided convolution.

    `padding` 1 pads both sides, as the U-Net does; 0 pads the bottom and right edge by one, as the
    autoencoder does.
    """

    def __init__(self, channels: int, padding: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.padding = padding
        self.conv = conv(channels, channels, stride=2, padding=padding, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        if self.padding == 0:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Doubles height and width by repetition, cut to `size` (height, width), then convolves."""

    def __init__(self, channels: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        if size is not None:
            x = x[:, : size[0], : size[1]]
        return self.conv(x)
