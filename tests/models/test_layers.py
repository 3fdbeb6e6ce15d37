# SPDX-License-Identifier: Apache-2.0
"""Norms and other layers in the forms that are fast, against their plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from mrti_jax.models import layers
from mrti_jax.models.layers import conv, group_norm, layer_norm
from mrti_jax.models.transformer import GEGLU
from mrti_jax.models.unet import timestep_embedding

GROUPS, EPSILON = 4, 1e-5


def with_gradients(function: object, *arguments: Array) -> tuple[Array, ...]:
    """The value, and the gradients of its product with some fixed numbers."""
    out, back = jax.vjp(function, *arguments)  # type: ignore[arg-type]
    fixed = np.random.default_rng(1).standard_normal(out.shape, np.float32)
    return out, *back(jnp.asarray(fixed, out.dtype))


def exactly(function: object, *arguments: Array) -> tuple[Array, ...]:
    """The same in float64, by autodiff."""
    with jax.enable_x64(True):
        return with_gradients(
            function, *(jnp.asarray(np.asarray(x), jnp.float64) for x in arguments)
        )


@pytest.mark.parametrize("kind", ["group", "layer"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_norms_and_their_gradients(kind: str, offset: float):
    """Autodiff of the formula is the reference; a large mean must not cancel."""
    x = offset + 3 * jax.random.normal(jax.random.key(0), (2, 5, 6, 12))
    scale, bias = jax.random.normal(jax.random.key(2), (2, 12))
    make = group_norm if kind == "group" else layer_norm
    sizes = (12, GROUPS) if kind == "group" else (12,)
    structure = nnx.graphdef(make(*sizes, EPSILON, dtype=jnp.float32, rngs=nnx.Rngs(0)))

    def ours(x: Array, scale: Array, bias: Array) -> Array:
        norm = nnx.merge(structure, nnx.State({"scale": scale, "bias": bias}))
        return norm(x, jax.nn.silu) if kind == "group" else norm(x)

    def formula(x: Array, scale: Array, bias: Array) -> Array:
        parts = x.reshape(2, 30, GROUPS, 3) if kind == "group" else x[..., None]
        axes = (1, 3) if kind == "group" else (3,)
        mean, variance = parts.mean(axes, keepdims=True), parts.var(axes, keepdims=True)
        out = ((parts - mean) / jnp.sqrt(variance + EPSILON)).reshape(x.shape) * scale + bias
        return jax.nn.silu(out) if kind == "group" else out

    # An input of 100 has an error of 4e-6 already, 10 times that after the norm of a narrow group.
    # The gradients of scale and bias are sums of 60 such numbers.
    tolerance = 4e-5 if offset else 4e-6
    for got, expected, error in zip(
        with_gradients(ours, x, scale, bias),
        exactly(formula, x, scale, bias),
        (tolerance, tolerance, 10 * tolerance, 10 * tolerance),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=0, atol=error)


def test_the_borders_of_a_flat_picture_take_no_digits_from_a_group_norm():
    """Zero padding makes borders unlike the rest; from such a value, squares would cancel."""
    x = 1e-2 * np.random.default_rng(0).standard_normal((1, 128, 128, 8)).astype(np.float32)
    x[:, [0, -1]] += 5
    x[:, :, [0, -1]] += 5
    x[:, 0, 0] += 20
    norm = group_norm(8, 8, EPSILON, dtype=jnp.float32, rngs=nnx.Rngs(0))
    exact = x.astype(np.float64)
    exact -= exact.mean((1, 2), keepdims=True)
    exact /= np.sqrt(np.square(exact).mean((1, 2), keepdims=True) + EPSILON)
    # Sums of 128 float32 numbers
    np.testing.assert_allclose(norm(jnp.asarray(x)), exact, rtol=0, atol=1e-6 * np.abs(exact).max())


def test_a_time_embedding_of_odd_width_ends_with_zero():
    even, odd = (
        timestep_embedding(jnp.arange(3), width, flip_sin_to_cos=True, freq_shift=0)
        for width in (4, 5)
    )
    np.testing.assert_array_equal(odd, np.pad(even, ((0, 0), (0, 1))))


def test_the_gated_gelu_and_its_gradient():
    layer = GEGLU(5, 7, dtype=jnp.float32, rngs=nnx.Rngs(0))
    kernel = layer.proj.kernel.get_value()

    def formula(x: Array) -> Array:
        value, gate = jnp.split(x @ jnp.asarray(np.asarray(kernel), x.dtype), 2, axis=-1)
        return value * gate * (1 + jax.scipy.special.erf(gate / np.sqrt(2))) / 2

    x = 3 * jax.random.normal(jax.random.key(0), (2, 6, 5))
    for got, expected in zip(with_gradients(layer, x), exactly(formula, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)  # values of about 10


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0)])
def test_a_convolution_of_few_positions_is_the_same(
    stride: int, padding: int, monkeypatch: pytest.MonkeyPatch
):
    layer = conv(5, 7, stride=stride, padding=padding, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.bias.set_value(jnp.arange(7.0))
    x = jax.random.normal(jax.random.key(0), (2, 9, 7, 5))
    product = with_gradients(layer, x)
    monkeypatch.setattr(layers, "FEW_POSITIONS", 0)
    for got, expected in zip(product, with_gradients(layer, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "side"), [(1, 4), (3, 4), (3, 20)], ids=["1x1", "few", "many"])
def test_a_convolution_computes_in_the_dtype_of_its_weights(size: int, side: int):
    layer = conv(4, 6, size, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, side, side, 4))
    got = layer(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, layer(x.astype(jnp.bfloat16)))
