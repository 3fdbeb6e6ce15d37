# SPDX-License-Identifier: Apache-2.0
"""Norms that read their input as seldom as can be, with float32 statistics.

The gradient keeps the input and the statistics alone: autodiff would keep, and read again, several
arrays of the input's size in float32. That is a third of a train step's memory traffic.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class GroupNorm(nnx.GroupNorm):
    """GroupNorm (Wu & He 2018) over height, width and the channels of a group, then `activation`.

    Output in the input's dtype.
    """

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "b h w c"], activation: Callable[[Array], Array] | None = None
    ) -> Float[Array, "b h w c"]:
        return _normalize(self, x, (1, 2), self.num_groups, activation)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm (Ba et al. 2016) over the last axis. Output in the input's dtype."""

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:  # type: ignore[override]
        return _normalize(self, x, (), 1, None)


def _normalize(
    norm: nnx.GroupNorm | nnx.LayerNorm,
    x: Array,
    axes: tuple[int, ...],
    num_groups: int,
    activation: Callable[[Array], Array] | None,
) -> Array:
    assert norm.scale is not None and norm.bias is not None
    mean, inverse = _statistics(jax.lax.stop_gradient(x), axes, num_groups, norm.epsilon)

    @jax.checkpoint
    def apply(x: Array, mean: Array, inverse: Array, scale: Array, bias: Array) -> Array:
        out = _standardize(x, mean, inverse, axes, num_groups) * scale + bias
        return (out if activation is None else activation(out)).astype(x.dtype)

    return apply(x, mean, inverse, norm.scale.get_value(), norm.bias.get_value())


def _statistics(
    x: Array, axes: tuple[int, ...], num_groups: int, epsilon: float
) -> tuple[Array, Array]:
    """Mean and inverse deviation of each group, over `axes` too, one for each channel."""
    x = x.astype(jnp.float32)
    # Both sums in one reading. About a value of the input, since about 0 they would cancel.
    pivot = x[:, :1, :1] if axes else x[..., :1]
    shift = jnp.mean(x - pivot, axis=axes or -1, keepdims=True)
    square = jnp.mean(jnp.square(x - pivot), axis=axes or -1, keepdims=True)
    mean, variance = pivot + shift, square - jnp.square(shift)
    if axes:
        over_group = functools.partial(_group_mean, num_groups=num_groups)
        group = over_group(mean)
        variance = over_group(variance + jnp.square(mean - group))
        mean = group
    return mean, jax.lax.rsqrt(jnp.maximum(variance, 0.0) + epsilon)


def _group_mean(x: Array, num_groups: int) -> Array:
    """The mean of the channels of each group, for each channel: [..., C] -> [..., C]."""
    groups = x.reshape(*x.shape[:-1], num_groups, -1)
    return jnp.broadcast_to(groups.mean(axis=-1, keepdims=True), groups.shape).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _standardize(
    x: Array, mean: Array, inverse: Array, axes: tuple[int, ...], num_groups: int
) -> Array:
    """Float32 of mean 0 and deviation 1, given `_statistics` of x."""
    return (x.astype(jnp.float32) - mean) * inverse


def _standardize_forward(
    x: Array, mean: Array, inverse: Array, axes: tuple[int, ...], num_groups: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _standardize(x, mean, inverse, axes, num_groups), (x, mean, inverse)


def _standardize_backward(
    axes: tuple[int, ...], num_groups: int, kept: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    """The gradient in x through its statistics as well (Ba et al. 2016, appendix)."""
    x, mean, inverse = kept
    out = (x.astype(jnp.float32) - mean) * inverse

    def average(values: Array) -> Array:
        values = jnp.mean(values, axis=axes or -1, keepdims=True)
        return _group_mean(values, num_groups) if axes else values

    result = inverse * (gradient - average(gradient) - out * average(gradient * out))
    return result.astype(x.dtype), jnp.zeros_like(mean), jnp.zeros_like(inverse)


_standardize.defvjp(_standardize_forward, _standardize_backward)
