# SPDX-License-Identifier: Apache-2.0
"""What only an NVIDIA GPU computes: `JAX_PLATFORMS=cuda pytest -m gpu`."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from mrti_jax.models.attention import Kernel, attend, choose_kernel
from mrti_jax.parallel.mesh import make_mesh

HEADS = 8
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "cuda" not in os.environ["JAX_PLATFORMS"],  # the tests' own choice is the CPU
        reason="JAX runs on no NVIDIA GPU here (JAX_PLATFORMS=cuda)",
    ),
]


@pytest.mark.parametrize("head_dim", [40, 64, 80, 128])
@pytest.mark.parametrize("keys", [256, 77])
def test_cudnn_attention_and_its_gradient_equal_the_formula(keys: int, head_dim: int):
    """Self-attention, and to a prompt, whose number of tokens is odd."""
    shapes = [(2, length, HEADS * head_dim) for length in (256, keys, keys, 256)]
    random = jax.random.split(jax.random.key(0), len(shapes))
    arrays = [
        jax.random.normal(key, shape, jnp.bfloat16)
        for key, shape in zip(random, shapes, strict=True)
    ]
    cudnn = Kernel("cudnn", None, 128)
    assert cudnn.takes(jnp.empty((2, 256, HEADS, head_dim)), jnp.empty((2, keys, 1, 1)), False)

    def run(kernel: Kernel, dtype: jax.typing.DTypeLike) -> list[Array]:
        *inputs, gradient = (x.astype(dtype) for x in arrays)

        def all_of_it(*inputs: Array) -> tuple[Array, tuple[Array, ...]]:
            out, back = jax.vjp(lambda *x: attend(*x, HEADS, kernel=kernel), *inputs)
            return out, back(gradient)

        with jax.default_matmul_precision("highest"):
            return jax.tree.leaves(jax.jit(all_of_it)(*inputs))

    for ours, exact in zip(run(cudnn, jnp.bfloat16), run(Kernel("xla"), jnp.float32), strict=True):
        error = np.abs(ours.astype(jnp.float32) - exact).max() / np.abs(exact).max()
        assert error < 2e-2  # a few roundings to 8 bits


def test_wide_heads_are_left_to_xla():
    """Where cuDNN is slower, and its gradient failed this comparison (JAX 0.11, an H100)."""
    kernel = choose_kernel("auto", make_mesh(jax.devices()[:1]), jnp.bfloat16)
    assert kernel.kind == "cudnn"
    assert not kernel.takes(jnp.empty((2, 256, HEADS, 160)), jnp.empty((2, 256, 1, 1)), False)
