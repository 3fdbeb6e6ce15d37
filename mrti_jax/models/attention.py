# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention, shared by the text encoder, the U-Net and the autoencoder."""

import jax
from flax import nnx
from jaxtyping import Array, Float


def attend(
    query: Float[Array, "b t c"],
    key: Float[Array, "b s c"],
    value: Float[Array, "b s c"],
    num_heads: int,
    *,
    is_causal: bool = False,
) -> Float[Array, "b t c"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) over `num_heads` equal slices of c.

    The softmax is computed in float32 whatever the dtype of the arguments.
    """
    batch, length, width = query.shape

    def split(x: Array) -> Array:
        return x.reshape(batch, x.shape[1], num_heads, width // num_heads)

    out = jax.nn.dot_product_attention(split(query), split(key), split(value), is_causal=is_causal)
    return out.reshape(batch, length, width)


class Attention(nnx.Module):
    """Queries from `hidden`, keys and values from `context`, or from `hidden` without one."""

    def __init__(
        self,
        query_dim: int,
        context_dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = False,
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        def linear(inputs: int, bias: bool) -> nnx.Linear:
            return nnx.Linear(
                inputs, query_dim, use_bias=bias, dtype=dtype, param_dtype=dtype, rngs=rngs
            )

        self.num_heads = num_heads
        self.to_q = linear(query_dim, qkv_bias)
        self.to_k = linear(context_dim, qkv_bias)
        self.to_v = linear(context_dim, qkv_bias)
        self.to_out = nnx.List([linear(query_dim, True)])

    def __call__(
        self, hidden: Float[Array, "b t c"], context: Float[Array, "b s d"] | None = None
    ) -> Float[Array, "b t c"]:
        context = hidden if context is None else context
        out = attend(self.to_q(hidden), self.to_k(context), self.to_v(context), self.num_heads)
        return self.to_out[0](out)
