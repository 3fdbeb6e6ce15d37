# SPDX-License-Identifier: Apache-2.0
"""Attention block by block (Rabe & Staats 2021, arXiv 2112.05682), in plain JAX.

The gradient doesn't keep the softmax weights: it recomputes them from one sum per query (Dao et al.
2022, arXiv 2205.14135, section 3.1), which takes less time than reading them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def blockwise_attention(
    query: Float[Array, "b t h d"],
    key: Float[Array, "b s h d"],
    value: Float[Array, "b s h d"],
    scale: float,
    max_logits: int,
) -> Float[Array, "b t h d"]:
    """Scaled dot-product attention with no more than `max_logits` logits in memory at a time.

    Blocks are of heads first, then of a head's queries, down to one query of one head.
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    batch, num_heads, length, _ = query.shape
    blocks = -(-batch * num_heads * length * key.shape[2] // max_logits)
    of_heads = _divisor(num_heads, blocks)
    of_queries = _divisor(length, -(-blocks // of_heads))

    def heads(query: Array, key: Array, value: Array) -> Array:
        def queries(query: Array) -> Array:
            return _attention(query, key, value, scale)

        return _in_blocks(queries, of_queries, 2, query)

    return _in_blocks(heads, of_heads, 1, query, key, value).swapaxes(1, 2)


def _divisor(length: int, least: int) -> int:
    """The smallest divisor of `length` that is at least `least`, or `length`."""
    return next((n for n in range(least, length) if length % n == 0), length)


def _in_blocks(function: Callable[..., Array], blocks: int, axis: int, *arrays: Array) -> Array:
    """Applies `function` to equal parts of the arrays along `axis`, one after the other."""
    if blocks == 1:
        return function(*arrays)

    def split(x: Array) -> Array:
        shape = (*x.shape[:axis], blocks, x.shape[axis] // blocks, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    out = jax.lax.map(lambda parts: function(*parts), tuple(map(split, arrays)))
    return jnp.moveaxis(out, 0, axis).reshape(arrays[0].shape)


def _logits(
    query: Float[Array, "b h t d"], key: Float[Array, "b h s d"], scale: float
) -> Float[Array, "b h t s"]:
    return _product("bhtd,bhsd->bhts", query, key) * scale


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(
    query: Float[Array, "b h t d"],
    key: Float[Array, "b h s d"],
    value: Float[Array, "b h s d"],
    scale: float,
) -> Float[Array, "b h t d"]:
    return _forward(query, key, value, scale)[0]


def _forward(
    query: Array, key: Array, value: Array, scale: float
) -> tuple[Array, tuple[Array, ...]]:
    logits = _logits(query, key, scale)
    largest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(axis=-1, keepdims=True)
    # Divided here, where there are the fewest numbers.
    out = _product("bhts,bhsd->bhtd", weights.astype(value.dtype), value) / total
    out = out.astype(query.dtype)
    return out, (query, key, value, out, largest + jnp.log(total))


def _backward(scale: float, kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    query, key, value, out, log_total = kept
    weights = jnp.exp(_logits(query, key, scale) - log_total)
    of_value = _product("bhts,bhtd->bhsd", weights.astype(value.dtype), gradient)
    of_weights = _product("bhtd,bhsd->bhts", gradient, value)
    mean = _product("bhtd,bhtd->bht", gradient, out)[..., None]
    of_logits = (weights * (of_weights - mean)).astype(query.dtype)
    of_query = _product("bhts,bhsd->bhtd", of_logits, key) * scale
    of_key = _product("bhts,bhtd->bhsd", of_logits, query) * scale
    return of_query.astype(query.dtype), of_key.astype(key.dtype), of_value.astype(value.dtype)


_attention.defvjp(_forward, _backward)
