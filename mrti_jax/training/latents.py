# SPDX-License-Identifier: Apache-2.0
"""The photos as the autoencoder sees them: moments, computed once and kept on the devices."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8

from mrti_jax.errors import UserError
from mrti_jax.models.frozen import Frozen
from mrti_jax.parallel.mesh import batch_sharded, fetch, place

# Pictures per call of the encoder, at least: one shape for any number of photos, one compilation.
ENCODE_BATCH = 4


def encode_moments(
    vae: Frozen, pixels: UInt8[np.ndarray, "m H W 3"], mesh: Mesh, *, flip: bool
) -> Float32[np.ndarray, "f m h w c"]:
    """Mean and log-variance of each picture's latents, on the last axis; F = 1.

    With `flip`, F = 2 and the second set is that of the mirrored pictures. The devices of the mesh
    share the work.
    """
    sets = [pixels, pixels[:, :, ::-1]] if flip else [pixels]
    return np.stack([_encode_all(vae, pictures, mesh) for pictures in sets])


def check_moments(moments: Float32[np.ndarray, "f m h w c"], names: Sequence[str]) -> None:
    """Raises UserError for an image that the autoencoder turns into NaN or infinity."""
    finite = np.isfinite(moments).all(axis=(0, 2, 3, 4))
    if not finite.all():
        bad = ", ".join(names[i] for i in np.flatnonzero(~finite)[:5])
        raise UserError(
            f"the autoencoder turns {bad} into NaN or infinity: use --model.dtype float32, or "
            "leave the image out"
        )


def sample_latents(
    moments: Float[Array, "b h w m"], noise: Float[Array, "b h w c"], scaling_factor: float
) -> Float[Array, "b h w c"]:
    """Scaled latents drawn from the moments with standard normal `noise`, float32.

    The log-variance is clipped to [-30, 20], as in the reference.
    """
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    deviation = jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0))
    return (mean + deviation * noise) * scaling_factor


def _encode_all(
    vae: Frozen, pixels: UInt8[np.ndarray, "m H W 3"], mesh: Mesh
) -> Float32[np.ndarray, "m h w c"]:
    moments = []
    size = -(-ENCODE_BATCH // mesh.size) * mesh.size
    for start in range(0, len(pixels), size):
        batch = pixels[start : start + size]
        padded = np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
        encoded = _encode_batch(vae.graphdef, vae.params, place(padded, batch_sharded(mesh)))
        moments.append(fetch(encoded)[: len(batch)])
    return np.concatenate(moments)


@functools.partial(jax.jit, static_argnums=0)
def _encode_batch(
    graphdef: nnx.GraphDef, params: Any, pixels: UInt8[Array, "b H W 3"]
) -> Float32[Array, "b h w c"]:
    vae = nnx.merge(graphdef, nnx.State(params))
    dtype = jax.tree.leaves(params)[0].dtype
    return vae.encode((pixels.astype(jnp.float32) / 127.5 - 1).astype(dtype)).astype(jnp.float32)
