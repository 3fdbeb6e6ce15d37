# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention, shared by the text encoder, the U-Net and the autoencoder."""

import dataclasses
from typing import TypeVar, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mrti_jax.errors import UserError, check_word
from mrti_jax.models.blockwise import blockwise_attention
from mrti_jax.models.choices import AttentionChoice, AttentionKind
from mrti_jax.models.layers import linear
from mrti_jax.parallel.mesh import batch_sharded

Module = TypeVar("Module", bound=nnx.Module)

# Logits that "chunked" computes at a time: on a CPU what its caches hold, elsewhere 512 MiB.
LOGITS_OF_A_CPU = 2 * 2**20
LOGITS = 128 * 2**20


@dataclasses.dataclass(frozen=True)
class Kernel:
    """How attention is computed; the result is the same up to rounding.

    Attributes:
        kind: `xla` holds all logits in memory; `chunked` computes them in blocks, and again for the
            gradient; `cudnn` is NVIDIA's flash attention and `splash` the Pallas one for TPUs. Both
            leave shapes that they don't support to `chunked`.
        mesh: the devices that share the batch.
        max_head_dim: the widest head that a flash kernel supports and speeds up.
        max_logits: how many `chunked` computes at a time on each device.
    """

    kind: AttentionKind = "chunked"
    mesh: Mesh | None = None
    max_head_dim: int = 0
    max_logits: int = LOGITS

    def takes(self, query: Array, key: Array, is_causal: bool) -> bool:
        """Whether the flash kernel supports [B, T, H, D] queries and [B, S, H, D] keys."""
        length, other, width = query.shape[1], key.shape[1], query.shape[3]
        if width > self.max_head_dim or is_causal:  # causal: a prompt's, which is short
            return False
        if self.kind == "cudnn":
            return width % 8 == 0 and length % 2 == 0
        # Short keys, such as a prompt's, fit in one block of XLA's as well.
        return length % 128 == 0 and other % 128 == 0

    def padded(self, head_dim: int) -> int:
        """The width to which heads in self-attention are padded with zeros: cuDNN is faster at 64
        than at 40."""
        return 64 if self.kind == "cudnn" and 32 < head_dim < 64 else head_dim


def choose_kernel(kind: AttentionChoice, mesh: Mesh, dtype: jax.typing.DTypeLike) -> Kernel:
    """The kernel for the devices of `mesh`: the fastest known one if `kind` is "auto".

    Raises UserError for a kernel that these devices don't have in this dtype.
    """
    check_word("attention", kind, get_args(AttentionChoice))
    device = mesh.devices.flat[0]
    flash: dict[str, AttentionKind] = {"gpu": "cudnn", "tpu": "splash"}
    best = flash.get(device.platform, "chunked")
    # cuDNN's flash attention has no float32; AMD GPUs, which are "gpu" as well, don't have it.
    if best == "cudnn" and (jnp.dtype(dtype).itemsize != 2 or not _is_nvidia(device)):
        best = "chunked"
    if kind == "auto":
        kind = best
    if kind in flash.values() and kind != best:
        raise UserError(
            f"attention '{kind}' is not available on {device.platform} in "
            f"{jnp.dtype(dtype).name}: use 'auto', which is '{best}' here"
        )
    return Kernel(
        kind,
        mesh,
        {"cudnn": 128, "splash": 256}.get(kind, 0),
        LOGITS_OF_A_CPU if device.platform == "cpu" else LOGITS,
    )


def with_kernel(module: Module, kernel: Kernel) -> Module:
    """The module with its attention layers set to `kernel`."""
    module.set_attributes(Attention, kernel=kernel, raise_if_not_found=False)
    return module


def _is_nvidia(device: jax.Device) -> bool:
    return "cuda" in device.client.platform_version.lower()


def attend(
    query: Float[Array, "b t c"],
    key: Float[Array, "b s c"],
    value: Float[Array, "b s c"],
    num_heads: int,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    kernel: Kernel = Kernel(),
) -> Float[Array, "b t c"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) over `num_heads` equal slices of c.

    The softmax is computed in float32 whatever the dtype of the arguments. `scale`: factor of the
    logits, 1 / sqrt(c / num_heads) if not given.
    """
    batch, length, width = query.shape
    scale = (width // num_heads) ** -0.5 if scale is None else scale
    query, key, value = (
        x.reshape(batch, x.shape[1], num_heads, width // num_heads) for x in (query, key, value)
    )
    if kernel.takes(query, key, is_causal):
        flash = _cudnn if kernel.kind == "cudnn" else _splash
        out = flash(query, key, value, scale, kernel)
    elif kernel.kind == "xla" or is_causal:
        out = jax.nn.dot_product_attention(query, key, value, scale=scale, is_causal=is_causal)
    else:
        devices = min(batch, kernel.mesh.size if kernel.mesh else 1)
        out = blockwise_attention(query, key, value, scale, kernel.max_logits * devices)
    return out.reshape(batch, length, width)


def _cudnn(query: Array, key: Array, value: Array, scale: float, kernel: Kernel) -> Array:
    length = key.shape[1]
    lengths = None
    if length % 8:  # its gradient supports no odd number of keys, and a prompt has 77
        pad = ((0, 0), (0, -length % 8), (0, 0), (0, 0))
        key, value = jnp.pad(key, pad), jnp.pad(value, pad)
        lengths = jnp.full(len(key), length, jnp.int32)
    return jax.nn.dot_product_attention(
        query, key, value, scale=scale, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def _splash(query: Array, key: Array, value: Array, scale: float, kernel: Kernel) -> Array:
    """Per head and picture; each device computes its part of the batch, as Pallas requires."""
    length, other, num_heads = query.shape[1], key.shape[1], query.shape[2]
    block_q, block_kv = _block(length), _block(other)
    attention = splash.make_splash_mha(
        splash.MultiHeadMask([splash.FullMask((length, other))] * num_heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
    )

    def one_device(query: Array, key: Array, value: Array) -> Array:
        scaled = (query * scale).astype(query.dtype)
        heads_first = (x.swapaxes(1, 2) for x in (scaled, key, value))
        return jax.vmap(attention)(*heads_first).swapaxes(1, 2)

    if kernel.mesh is None or kernel.mesh.size == 1:
        return one_device(query, key, value)
    spec = batch_sharded(kernel.mesh).spec
    return jax.shard_map(
        one_device, mesh=kernel.mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )(query, key, value)


def _block(length: int) -> int:
    """The longest block of at most 512 that divides a multiple of 128."""
    return max(block for block in range(128, 513, 128) if length % block == 0)


class Attention(nnx.Module):
    """Queries from `hidden`, keys and values from `context` or, without one, from `hidden`."""

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
        def projection(inputs: int, bias: bool) -> nnx.Linear:
            return linear(inputs, query_dim, bias=bias, dtype=dtype, rngs=rngs)

        self.num_heads = num_heads
        self.kernel = Kernel()
        self.to_q = projection(query_dim, qkv_bias)
        self.to_k = projection(context_dim, qkv_bias)
        self.to_v = projection(context_dim, qkv_bias)
        self.to_out = nnx.List([projection(query_dim, True)])

    def __call__(
        self, hidden: Float[Array, "b t c"], context: Float[Array, "b s d"] | None = None
    ) -> Float[Array, "b t c"]:
        head_dim = self.to_q.out_features // self.num_heads
        width = self.kernel.padded(head_dim) if context is None else head_dim
        context = hidden if context is None else context
        query, key, value = (
            x @ self._padded(layer.kernel, width, 1) + self._padded(layer.bias, width, 0)
            for layer, x in ((self.to_q, hidden), (self.to_k, context), (self.to_v, context))
        )
        out = attend(query, key, value, self.num_heads, scale=head_dim**-0.5, kernel=self.kernel)
        out_layer = self.to_out[0]
        assert out_layer.bias is not None
        return out @ self._padded(out_layer.kernel, width, 0) + out_layer.bias.get_value()

    def _padded(self, weights: nnx.Param | None, width: int, axis: int) -> Array | float:
        """The weights with zeros after each head along `axis`, so that each is `width` long."""
        if weights is None:
            return 0.0
        x = weights.get_value()
        head_dim = x.shape[axis] // self.num_heads
        if width == head_dim:
            return x
        heads = x.reshape(*x.shape[:axis], self.num_heads, head_dim, *x.shape[axis + 1 :])
        pad = [(0, 0)] * heads.ndim
        pad[axis + 1] = (0, width - head_dim)
        padded = jnp.pad(heads, pad)
        return padded.reshape(*x.shape[:axis], self.num_heads * width, *x.shape[axis + 1 :])
