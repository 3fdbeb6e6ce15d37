# SPDX-License-Identifier: Apache-2.0
"""A frozen module: its structure, known when a program is compiled, separate from its weights."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from flax import nnx

Params = dict[str, Any]
Weights = list[tuple[tuple[Any, ...], jax.ShapeDtypeStruct]]
Module = TypeVar("Module", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Frozen(Generic[Module]):
    """An NNX module split into `graphdef` (static) and `params` (a plain nested dict of arrays).

    Pass `params` as an argument of a jitted function and `bind` it inside: weights that a jitted
    function closes over become constants of the program, and a plain dict is dispatched ten times
    faster than a module.
    """

    config: Any
    graphdef: nnx.GraphDef[Module] = dataclasses.field(repr=False)
    params: Params = dataclasses.field(repr=False)

    def bind(self, params: Params) -> Module:
        """The module with these weights; use it inside a jitted function."""
        return nnx.merge(self.graphdef, nnx.State(params))


class OneKey(nnx.Rngs):
    """Gives every weight the same key: for modules whose weights are not drawn, see `abstract`.

    A key for each would take most of the time of tracing a big module, and drawing with it (see
    `drawn`) most of the rest.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self._key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self._key


def drawn(initializer: nnx.Initializer, rngs: nnx.Rngs) -> nnx.Initializer:
    """How a layer draws its weights; with `OneKey`, they are zeros."""
    return nnx.initializers.zeros if isinstance(rngs, OneKey) else initializer


def abstract(build: Callable[[], Module]) -> tuple[nnx.GraphDef[Module], Weights]:
    """The structure of `build()`, and its weights as `(path, ShapeDtypeStruct)`; creates none."""
    graphdef, state = nnx.split(nnx.eval_shape(build), nnx.Param)
    return graphdef, [(path, var.get_value()) for path, var in nnx.to_flat_state(state)]


def without_weights(config: Any, build: Callable[[], Module]) -> Frozen[Module]:
    """The module of `build()` with shapes in place of its weights."""
    graphdef, weights = abstract(build)
    return Frozen(config, graphdef, nnx.traversals.unflatten_mapping(dict(weights)))


def initialise(config: Any, build: Callable[[nnx.Rngs], Module], seed: int) -> Frozen[Module]:
    """A module with freshly drawn weights."""

    def draw() -> Params:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(seed)), nnx.Param))

    graphdef, _ = abstract(lambda: build(OneKey()))
    return Frozen(config, graphdef, jax.jit(draw)())
