# SPDX-License-Identifier: Apache-2.0
"""The U-Net's spatial transformer: self-attention, cross-attention to the text, feed-forward."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mrti_jax.models.attention import Attention
from mrti_jax.models.layers import conv, group_norm, layer_norm, linear


class GEGLU(nnx.Module):
    """Half of a linear map, gated by the GELU of the other half (Shazeer 2020, eq. 6)."""

    def __init__(self, inputs: int, outputs: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        self.proj = linear(inputs, 2 * outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t o"]:
        return _gated_gelu(self.proj(x))


@jax.custom_vjp
def _gated_gelu(x: Float[Array, "b t d"]) -> Float[Array, "b t o"]:
    value, gate = jnp.split(x, 2, axis=-1)
    return value * _gelu(gate)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _forward(x: Array) -> tuple[Array, Array]:
    return _gated_gelu(x), x


def _backward(x: Array, gradient: Array) -> tuple[Array]:
    # Recomputed from the input for each half: XLA would write what both need to memory.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    _, gate = jnp.split(x, 2, axis=-1)
    of_value = gradient * _gelu(gate)
    value, gate = jnp.split(jax.lax.optimization_barrier(x), 2, axis=-1)
    (of_gate,) = jax.vjp(_gelu, gate)[1](gradient * value)
    return (jnp.concatenate([of_value, of_gate], axis=-1),)


_gated_gelu.defvjp(_forward, _backward)


class Identity(nnx.Module):
    """Takes the place of the checkpoint's dropout, so that the layer after it keeps its number."""

    def __call__(self, x: Array) -> Array:
        return x


class FeedForward(nnx.Module):
    """GEGLU and a linear layer, [B, T, C] -> [B, T, C]."""

    def __init__(self, width: int, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        inner = 4 * width
        last = linear(inner, width, dtype=dtype, rngs=rngs)
        self.net = nnx.List([GEGLU(width, inner, dtype=dtype, rngs=rngs), Identity(), last])

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        for layer in self.net:
            x = layer(x)
        return x


class BasicTransformerBlock(nnx.Module):
    """Self-attention, cross-attention to `context` [B, L, D] and feed-forward, each with a norm
    before it and a shortcut around it: [B, T, C] -> [B, T, C]."""

    def __init__(
        self,
        width: int,
        context_dim: int,
        num_heads: int,
        *,
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1, self.norm2, self.norm3 = (
            layer_norm(width, 1e-5, dtype=dtype, rngs=rngs) for _ in range(3)
        )
        self.attn1 = Attention(width, width, num_heads, dtype=dtype, rngs=rngs)
        self.attn2 = Attention(width, context_dim, num_heads, dtype=dtype, rngs=rngs)
        self.ff = FeedForward(width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t c"], context: Float[Array, "b l d"]
    ) -> Float[Array, "b t c"]:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
    """Transformer blocks over all positions of a picture, with a shortcut around them."""

    def __init__(
        self,
        channels: int,
        context_dim: int,
        num_heads: int,
        depth: int,
        *,
        groups: int,
        use_linear_projection: bool,
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        def projection() -> nnx.Linear | nnx.Conv:
            if use_linear_projection:
                return linear(channels, channels, dtype=dtype, rngs=rngs)
            return conv(channels, channels, 1, dtype=dtype, rngs=rngs)

        self.norm = group_norm(channels, groups, 1e-6, dtype=dtype, rngs=rngs)
        self.proj_in = projection()
        self.transformer_blocks = nnx.List(
            [
                BasicTransformerBlock(channels, context_dim, num_heads, dtype=dtype, rngs=rngs)
                for _ in range(depth)
            ]
        )
        self.proj_out = projection()

    def __call__(
        self, x: Float[Array, "b h w c"], context: Float[Array, "b l d"]
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        # A 1x1 convolution and a linear map are the same here, since channels are last.
        hidden = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for block in self.transformer_blocks:
            hidden = block(hidden, context)
        return x + self.proj_out(hidden.reshape(b, h, w, c))
