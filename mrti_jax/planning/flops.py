# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of a program, counted before it is compiled."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(jaxpr: core.ClosedJaxpr) -> float:
    """Multiplications and additions of all matrix products and convolutions; loops count times
    their length, conditions by their largest branch.

    Raises NotImplementedError for a kernel, whose inside isn't known, and for a `while` loop with
    products in it.
    """
    return _count(jaxpr.jaxpr)


def _count(jaxpr: core.Jaxpr) -> float:
    return sum(_count_one(equation) for equation in jaxpr.eqns)


def _count_one(equation: core.JaxprEqn) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "pallas_call" or (name == "while" and any(map(_count, _inner(params)))):
        raise NotImplementedError(f"the work of a {name} can't be counted")
    inside = [_count(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inside)
    return params.get("length", 1) * sum(inside) if name == "scan" else sum(inside)


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for leaf in jax.tree.leaves(
        params, is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
    ):
        if isinstance(leaf, core.ClosedJaxpr):
            yield leaf.jaxpr
        elif isinstance(leaf, core.Jaxpr):
            yield leaf


def _dot(equation: core.JaxprEqn) -> float:
    left, right = (_shape(var) for var in equation.invars)
    (_, contracted), (_, batch) = equation.params["dimension_numbers"]
    others = [n for axis, n in enumerate(right) if axis not in {*contracted, *batch}]
    return 2.0 * math.prod(left) * math.prod(others)


def _convolution(equation: core.JaxprEqn) -> float:
    kernel = _shape(equation.invars[1])
    numbers, dilation = equation.params["dimension_numbers"], equation.params["lhs_dilation"]
    per_output = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    # A dilated input, as in the gradient of a strided convolution, is mostly zeros.
    return 2.0 * math.prod(_shape(equation.outvars[0])) * per_output / math.prod(dilation)


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape
