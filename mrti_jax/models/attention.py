# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention, shared by the text encoder, the U-Net and the autoencoder."""

import dataclasses
from typing import Literal, TypeVar

import jax
from flax import nnx
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mrti_jax.errors import UserError
from mrti_jax.models.blockwise import blockwise_attention
from mrti_jax.models.layers import linear
from mrti_jax.parallel.mesh import batch_sharded

Module = TypeVar("Module", bound=nnx.Module)
Kind = Literal["xla", "chunked", "cudnn", "splash"]

# Logits that "chunked" computes at a time: on a CPU what its caches hold, elsewhere 512 MiB.
LOGITS_OF_A_CPU = 2 * 2**20
LOGITS = 128 * 2**20


@dataclasses.dataclass(frozen=True)
class Kernel:
    """How attention is computed; the result is the same but for rounding.

    Attributes:
        kind: `xla` holds all logits in memory; `chunked` computes them in blocks, and again for the
            gradient; `cudnn` is NVIDIA's flash attention and `splash` the Pallas one for TPUs. Both
            leave shapes that they can't do to `chunked`.
        mesh: the devices that share the batch.
        max_head_dim: the widest head that a flash kernel can do.
        max_logits: how many `chunked` computes at a time on each device.
    """

    kind: Kind = "chunked"
    mesh: Mesh | None = None
    max_head_dim: int = 0
    max_logits: int = LOGITS

    def takes(self, query: Array, key: Array, is_causal: bool) -> bool:
        """Whether the flash kernel can do [B, T, H, D] queries and [B, S, H, D] keys."""
        length, other, width = query.shape[1], key.shape[1], query.shape[3]
        if width > self.max_head_dim:
            return False
        if self.kind == "cudnn":
            return width % 8 == 0
        # Short keys, such as a prompt's, fit in one block of XLA's as well.
        return not is_causal and length % 128 == 0 and other % 128 == 0


def choose_kernel(kind: Kind | Literal["auto"], mesh: Mesh, dtype: jax.typing.DTypeLike) -> Kernel:
    """The kernel for the devices of `mesh`: the fastest known one if `kind` is "auto".

    Raises UserError for a kernel that these devices or this dtype don't have.
    """
    device = mesh.devices.flat[0]
    flash: dict[str, Kind] = {"gpu": "cudnn", "tpu": "splash"}
    best = flash.get(device.platform, "chunked")
    # cuDNN's flash attention has no float32; no AMD GPU has it, they report another capability.
    if best == "cudnn" and (jax.numpy.dtype(dtype).itemsize != 2 or not _is_nvidia(device)):
        best = "chunked"
    if kind == "auto":
        kind = best
    if kind in flash.values() and kind != best:
        raise UserError(
            f"attention '{kind}' can't be had on {device.platform} in "
            f"{jax.numpy.dtype(dtype).name}: take 'auto', which is '{best}' here"
        )
    if kind == "cudnn":  # heads above 128 want Hopper or later
        return Kernel(kind, mesh, 256 if float(device.compute_capability) >= 9.0 else 128)
    return Kernel(
        kind,
        mesh,
        256 if kind == "splash" else 0,
        LOGITS_OF_A_CPU if device.platform == "cpu" else LOGITS,
    )


def with_kernel(module: Module, kernel: Kernel) -> Module:
    """The module, its attention layers set to compute by `kernel`."""
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
    is_causal: bool = False,
    kernel: Kernel = Kernel(),
) -> Float[Array, "b t c"]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) over `num_heads` equal slices of c.

    The softmax is computed in float32 whatever the dtype of the arguments.
    """
    batch, length, width = query.shape
    query, key, value = (
        x.reshape(batch, x.shape[1], num_heads, width // num_heads) for x in (query, key, value)
    )
    if kernel.takes(query, key, is_causal):
        flash = _cudnn if kernel.kind == "cudnn" else _splash
        out = flash(query, key, value, is_causal, kernel)
    elif kernel.kind == "xla" or is_causal:
        out = jax.nn.dot_product_attention(query, key, value, is_causal=is_causal)
    else:
        devices = min(batch, kernel.mesh.size if kernel.mesh else 1)
        out = blockwise_attention(query, key, value, kernel.max_logits * devices)
    return out.reshape(batch, length, width)


def _cudnn(query: Array, key: Array, value: Array, is_causal: bool, kernel: Kernel) -> Array:
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=is_causal, implementation="cudnn"
    )


def _splash(query: Array, key: Array, value: Array, is_causal: bool, kernel: Kernel) -> Array:
    """Per head and picture; every device its own part of the batch, as Pallas wants it."""
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
        scaled = (query * query.shape[-1] ** -0.5).astype(query.dtype)
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
    """Queries from `hidden`, keys and values from `context`, or from `hidden` without one."""

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
        context = hidden if context is None else context
        query, key, value = self.to_q(hidden), self.to_k(context), self.to_v(context)
        out = attend(query, key, value, self.num_heads, kernel=self.kernel)
        return self.to_out[0](out)
