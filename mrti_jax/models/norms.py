# SPDX-License-Identifier: Apache-2.0
"""Norms that read their input as rarely as possible, with float32 statistics.

The gradient keeps only the input and the statistics: autodiff would keep, and read again, several
float32 arrays of the input's size. That is a third of a train step's memory traffic.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Activation = Callable[[Array], Array]


class GroupNorm(nnx.GroupNorm):
    """GroupNorm (Wu & He 2018) over height, width and the channels of a group, then `activation`.

    Output in the input's dtype.
    """

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "b h w c"], activation: Activation | None = None
    ) -> Float[Array, "b h w c"]:
        return _normalize(*_weights(self), x, (1, 2), self.num_groups, self.epsilon, activation)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm (Ba et al. 2016) over the last axis. Output in the input's dtype."""

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:  # type: ignore[override]
        return _normalize(*_weights(self), x, (), 1, self.epsilon, None)


def _weights(norm: nnx.GroupNorm | nnx.LayerNorm) -> tuple[Array, Array]:
    assert norm.scale is not None and norm.bias is not None
    return norm.scale.get_value(), norm.bias.get_value()


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _normalize(
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    x: Array,
    axes: tuple[int, ...],
    num_groups: int,
    epsilon: float,
    activation: Activation | None,
) -> Array:
    """Mean 0, deviation 1 over a group and `axes`; then scale, bias, `activation`."""
    return _forward(scale, bias, x, axes, num_groups, epsilon, activation)[0]


def _forward(
    scale: Array,
    bias: Array,
    x: Array,
    axes: tuple[int, ...],
    num_groups: int,
    epsilon: float,
    activation: Activation | None,
) -> tuple[Array, tuple[Array, ...]]:
    mean, inverse = _statistics(x, axes, num_groups, epsilon)
    out = (x.astype(jnp.float32) - mean) * inverse * scale + bias
    out = (out if activation is None else activation(out)).astype(x.dtype)
    return out, (scale, bias, x, mean, inverse)


def _backward(
    axes: tuple[int, ...],
    num_groups: int,
    epsilon: float,
    activation: Activation | None,
    kept: tuple[Array, ...],
    gradient: Array,
) -> tuple[Array, Array, Array]:
    """Through the statistics as well (Ba et al. 2016, appendix)."""
    scale, bias, x, mean, inverse = kept

    def standardized(x: Array, gradient: Array) -> tuple[Array, Array]:
        """Float32: x of mean 0 and deviation 1, and the gradient before the activation."""
        standard, gradient = (x.astype(jnp.float32) - mean) * inverse, gradient.astype(jnp.float32)
        if activation is not None:
            (gradient,) = jax.vjp(activation, standard * scale + bias)[1](gradient)
        return standard, gradient

    standard, of_bias = standardized(x, gradient)
    of_scale = of_bias * standard
    if axes:
        of_bias, of_scale = _sums(of_bias, of_scale, axes)
        positions = x.size // of_bias.size
        average, along = (
            _group_mean(one * scale, num_groups) / positions for one in (of_bias, of_scale)
        )
        # Recomputed from the inputs: XLA would write float32 arrays of their size to keep them.
        x, gradient, average, along = jax.lax.optimization_barrier((x, gradient, average, along))
        standard, of_input = standardized(x, gradient)
    else:
        of_input = of_bias
        average, along = (jnp.mean(one * scale, -1, keepdims=True) for one in (of_bias, of_scale))
    of_input = inverse * (of_input * scale - average - standard * along)
    others = tuple(range(x.ndim - 1))
    return (
        of_scale.sum(others).astype(scale.dtype),
        of_bias.sum(others).astype(bias.dtype),
        of_input.astype(x.dtype),
    )


_normalize.defvjp(_forward, _backward)


def _statistics(
    x: Array, axes: tuple[int, ...], num_groups: int, epsilon: float
) -> tuple[Array, Array]:
    """Mean and inverse deviation of each group, over `axes` too, one for each channel."""
    x = x.astype(jnp.float32)
    if axes:
        each, variance = _moments(x)
        mean = _group_mean(each, num_groups)
        variance = _group_mean(variance + jnp.square(each - mean), num_groups)
    else:
        mean = jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return mean, jax.lax.rsqrt(jnp.maximum(variance, 0.0) + epsilon)


def _moments(x: Float[Array, "b h w c"]) -> tuple[Array, Array]:
    """Mean and variance of each channel over height and width, in one pass: two [b, 1, 1, c].

    Squares of deviations cancel if they are taken from a value unlike the others, such as a padded
    corner. So each row takes its own middle, and the rows are combined by their means (Chan, Golub
    & LeVeque 1983, "Algorithms for Computing the Sample Variance").
    """
    middle = x.shape[2] // 2
    pivot = x[:, :, middle : middle + 1]
    sums = _sums(x - pivot, jnp.square(x - pivot), (2,))
    shift, square = (total / x.shape[2] for total in sums)
    of_rows = pivot + shift
    mean = of_rows.mean(axis=1, keepdims=True)
    variance = square - jnp.square(shift) + jnp.square(of_rows - mean)
    return mean, variance.mean(axis=1, keepdims=True)


def _sums(first: Array, second: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Sums of two arrays over `axes`, which stay as axes of length 1, in one pass."""
    zero = jnp.float32(0)
    sums: Any = first, second
    for axis in reversed(axes):
        sums = jax.lax.reduce(sums, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (axis,))
        sums = jax.lax.optimization_barrier(sums)
    first, second = (jnp.expand_dims(one, axes) for one in sums)
    return first, second


def _group_mean(x: Array, num_groups: int) -> Array:
    """The mean of the channels of each group, for each channel: [..., C] -> [..., C]."""
    groups = x.reshape(*x.shape[:-1], num_groups, -1)
    return jnp.broadcast_to(groups.mean(axis=-1, keepdims=True), groups.shape).reshape(x.shape)
