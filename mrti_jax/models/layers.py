# SPDX-License-Identifier: Apache-2.0
"""Layers and residual blocks that the modules share. Layout NHWC.

Each computes in the dtype of its weights.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mrti_jax.models.frozen import drawn
from mrti_jax.models.norms import GroupNorm, LayerNorm

# As Flax draws them (Klambauer et al. 2017).
LECUN_NORMAL = nnx.initializers.lecun_normal()
TABLE_NORMAL = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)

# Output positions up to which a convolution is computed as one matrix product. It is then bound by
# its weights, and what libraries do for large pictures is wasted: on CPUs Eigen's gradient takes
# many times as long, and on TPUs a single picture is cut into strips that overlap by half.
FEW_POSITIONS = 256


class Conv(nnx.Conv):
    """A square 2-D convolution, as a matrix product where it is 1x1 or there are few positions."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        padding: int,
        *,
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            inputs,
            outputs,
            (size, size),
            strides=(stride, stride),
            padding=((padding, padding), (padding, padding)),
            dtype=dtype,
            param_dtype=dtype,
            kernel_init=drawn(LECUN_NORMAL, rngs),
            rngs=rngs,
        )
        self.size, self.stride, self.pad = size, stride, padding

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:  # type: ignore[override]
        height, width = ((n + 2 * self.pad - self.size) // self.stride + 1 for n in x.shape[1:3])
        positions = x.shape[0] * height * width
        assert self.bias is not None
        x = x.astype(self.kernel.get_value().dtype)
        if self.size == self.stride == 1:
            return x @ self.kernel.get_value()[0, 0] + self.bias.get_value()
        if positions > FEW_POSITIONS:
            return super().__call__(x)
        padded = jnp.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        rows, columns = (
            [slice(start, start + self.stride * n, self.stride) for start in range(self.size)]
            for n in (height, width)
        )
        seen = [padded[:, row, column] for row in rows for column in columns]
        patches = jnp.concatenate(seen, axis=-1).reshape(positions, -1)
        out = patches @ self.kernel.get_value().reshape(-1, self.out_features)
        return out.reshape(x.shape[0], height, width, -1) + self.bias.get_value()


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    dtype: jax.typing.DTypeLike,
    rngs: nnx.Rngs,
) -> Conv:
    """A convolution with PyTorch's symmetric padding (`kernel // 2` unless given)."""
    pad = kernel // 2 if padding is None else padding
    return Conv(inputs, outputs, kernel, stride, pad, dtype=dtype, rngs=rngs)


def linear(
    inputs: int, outputs: int, *, bias: bool = True, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
    """A linear map of the last axis, [..., inputs] -> [..., outputs]."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=dtype,
        param_dtype=dtype,
        kernel_init=drawn(LECUN_NORMAL, rngs),
        rngs=rngs,
    )


def embed(rows: int, width: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of vectors, drawn from N(0, 1 / width)."""
    return nnx.Embed(
        rows,
        width,
        dtype=dtype,
        param_dtype=dtype,
        embedding_init=drawn(TABLE_NORMAL, rngs),
        rngs=rngs,
    )


def group_norm(
    channels: int, groups: int, eps: float, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs
) -> GroupNorm:
    """A group norm of [B, H, W, channels]; see `GroupNorm`."""
    return GroupNorm(
        channels, num_groups=groups, epsilon=eps, dtype=dtype, param_dtype=dtype, rngs=rngs
    )


def layer_norm(
    channels: int, eps: float, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs
) -> LayerNorm:
    """A layer norm of [..., channels]; see `LayerNorm`."""
    return LayerNorm(channels, epsilon=eps, dtype=dtype, param_dtype=dtype, rngs=rngs)


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
            self.time_emb_proj = linear(time_dim, outputs, dtype=dtype, rngs=rngs)
        self.norm2 = group_norm(outputs, groups, eps, dtype=dtype, rngs=rngs)
        self.conv2 = conv(outputs, outputs, dtype=dtype, rngs=rngs)
        self.has_shortcut = inputs != outputs
        if self.has_shortcut:
            self.conv_shortcut = conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w i"], time: Float[Array, "b e"] | None = None
    ) -> Float[Array, "b h w o"]:
        hidden = self.conv1(self.norm1(x, jax.nn.silu))
        if time is not None:
            hidden += self.time_emb_proj(jax.nn.silu(time))[:, None, None, :]
        hidden = self.conv2(self.norm2(hidden, jax.nn.silu))
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
