# SPDX-License-Identifier: Apache-2.0
"""All kernels compute the same attention, and only those available are chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from mrti_jax.errors import UserError
from mrti_jax.models import attention
from mrti_jax.models.attention import Kernel, attend, choose_kernel
from mrti_jax.parallel.mesh import make_mesh

HEADS = 2


def reference(query: Array, key: Array, value: Array) -> np.ndarray:
    """Softmax(q k^T / sqrt(d)) v in float64, head by head."""
    out = []
    for head in range(HEADS):
        q, k, v = (
            np.split(np.asarray(x, np.float64), HEADS, axis=-1)[head] for x in (query, key, value)
        )
        logits = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        out.append(weights / weights.sum(axis=-1, keepdims=True) @ v)
    return np.concatenate(out, axis=-1)


@pytest.mark.parametrize("head_dim", [40, 160])
@pytest.mark.parametrize("kind", ["chunked", "splash"])
def test_kernels_equal_the_formula(kind: attention.AttentionKind, head_dim: int):
    """Two pictures on two devices; the TPU's kernel as its interpreter computes it."""
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [jax.random.normal(key, (2, 256, HEADS * head_dim)) for key in keys]
    kernel = Kernel(kind, make_mesh(), 256, 2**14)  # chunked: both heads apart, 4 blocks of queries

    def value_and_gradients(kernel: Kernel) -> tuple[Array, tuple[Array, ...]]:
        def run(*args: Array) -> Array:
            return attend(*args, HEADS, kernel=kernel)

        out, back = jax.vjp(run, *arrays[:3])
        return out, back(arrays[3])

    plain, plain_gradients = jax.jit(value_and_gradients, static_argnums=0)(Kernel("xla"))
    np.testing.assert_allclose(plain, reference(*arrays[:3]), rtol=0, atol=2e-6)
    with pltpu.force_tpu_interpret_mode():
        out, gradients = jax.jit(value_and_gradients, static_argnums=0)(kernel)
    np.testing.assert_allclose(out, plain, rtol=0, atol=3e-6)
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_shapes_that_a_flash_kernel_cannot_do_are_left_to_xla():
    splash, cudnn = Kernel("splash", None, 256), Kernel("cudnn", None, 128)

    def takes(kernel: Kernel, length: int, other: int, width: int) -> bool:
        return kernel.takes(
            jnp.empty((1, length, 1, width)), jnp.empty((1, other, 1, width)), False
        )

    assert takes(splash, 4096, 4096, 40) and takes(splash, 256, 256, 160)
    assert not takes(splash, 4096, 77, 40)  # a prompt's keys
    assert not takes(splash, 64, 64, 160) and not takes(splash, 4096, 4096, 512)
    assert takes(cudnn, 4096, 77, 40) and not takes(cudnn, 256, 256, 160)
    assert not takes(cudnn, 81, 81, 40)  # its gradient supports no odd number of queries
    assert not takes(Kernel(), 4096, 4096, 40)


def test_a_kernel_of_other_devices_is_refused():
    mesh = make_mesh()
    assert choose_kernel("auto", mesh, jnp.float32).kind == "chunked"
    for kind in ("cudnn", "splash"):
        with pytest.raises(
            UserError, match=f"'{kind}' is not available on cpu in float32: use 'auto'"
        ):
            choose_kernel(kind, mesh, jnp.float32)


def test_heads_widened_by_zeros_give_the_same(monkeypatch: pytest.MonkeyPatch):
    """As passed to cuDNN, in self-attention with and without biases."""
    for qkv_bias in (False, True):
        layer = attention.Attention(
            80, 80, HEADS, qkv_bias=qkv_bias, dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
        if qkv_bias:
            layer.to_q.bias[...] = jax.random.normal(jax.random.key(2), (80,))
        x = jax.random.normal(jax.random.key(1), (1, 16, 80))
        plain = layer(x)
        monkeypatch.setattr(Kernel, "padded", lambda self, head_dim: 64)
        np.testing.assert_allclose(layer(x), plain, rtol=0, atol=1e-6)
        monkeypatch.undo()
    assert Kernel("cudnn").padded(40) == 64 and Kernel("cudnn").padded(80) == 80
