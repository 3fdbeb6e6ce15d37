# SPDX-License-Identifier: Apache-2.0
"""What the gradient in the text states does not compute."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend import core
from jaxtyping import Array
from tiny import TEXT_WIDTH, unet_config

from mrti_jax.models import layers
from mrti_jax.models.frozen import abstract
from mrti_jax.models.unet import UNet2DConditionModel


def primitives(jaxpr: core.Jaxpr) -> Iterator[str]:
    """The names of all primitives, those in inner programs too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
        ):
            if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
                yield from primitives(getattr(value, "jaxpr", value))


def test_only_what_the_text_states_reach_is_differentiated(monkeypatch: pytest.MonkeyPatch):
    """One convolution backward for each forward: none for a weight, and none for the three below
    the first cross-attention (the first one and those of the first residual block).
    """
    monkeypatch.setattr(layers, "FEW_POSITIONS", 0)
    config = unet_config("sd1")
    graphdef, weights = abstract(
        lambda: UNet2DConditionModel(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    )
    params = nnx.traversals.unflatten_mapping(dict(weights))

    def forward(params: dict, context: Array) -> Array:
        unet = nnx.merge(graphdef, nnx.State(params))
        return unet(jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), context)

    def both(params: dict, context: Array) -> Array:
        return jax.grad(lambda context: forward(params, context).sum())(context)

    def convolutions(function: object) -> int:
        context = jax.ShapeDtypeStruct((1, 7, TEXT_WIDTH), jnp.float32)
        traced = jax.jit(function).trace(params, context)  # type: ignore[call-overload]
        return list(primitives(traced.jaxpr.jaxpr)).count("conv_general_dilated")

    assert convolutions(both) == 2 * convolutions(forward) - 3
