# SPDX-License-Identifier: Apache-2.0
"""From seeds and text states to pixels: the whole sampling loop as one compiled program."""

import dataclasses
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8, UInt32

from mrti_jax.diffusion import Sampler
from mrti_jax.models.frozen import Params
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.text_encoder import TextStates
from mrti_jax.parallel.compiler import compile_ahead, compiler_options
from mrti_jax.parallel.mesh import batch_sharded, fetch, place, replicated
from mrti_jax.sampling.guidance import guide

MAX_SEED = 2**32 - 1

# Programs, with the shapes and dtypes of their arguments, that need not be compiled ahead of the
# call, which hears no signals while it compiles.
_COMPILED: set[Any] = set()


@dataclasses.dataclass(frozen=True)
class Program:
    """What a program is compiled for; everything else is an argument of it.

    Attributes:
        unet, vae: the structure of the modules.
        scaling_factor: of the VAE; its latents are the U-Net's divided by this.
        latent_shape: `(h, w, c)` of one picture.
        vae_slicing: whether each device decodes its pictures one after the other.
        mesh: its devices share the batch.
    """

    unet: nnx.GraphDef
    vae: nnx.GraphDef
    scaling_factor: float
    latent_shape: tuple[int, int, int]
    sampler: Sampler
    vae_slicing: bool
    mesh: Mesh

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Cached, since that of the modules takes milliseconds and JAX needs it in each call."""
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))


def make_program(
    sd: StableDiffusion, sampler: Sampler, height: int, width: int, *, vae_slicing: bool = False
) -> Program:
    """The program for pictures of `height` by `width` pixels, multiples of the VAE's factor."""
    return Program(
        unet=sd.unet.graphdef,
        vae=sd.vae.graphdef,
        scaling_factor=sd.vae.config.scaling_factor,
        latent_shape=sd.vae.config.latent_shape(height, width),
        sampler=sampler,
        vae_slicing=vae_slicing,
        mesh=sd.mesh,
    )


def draw(
    program: Program,
    sd: StableDiffusion,
    text_states: TextStates,
    sizes: Int[np.ndarray, "n"],
    steps: Any,
    intervals: Int[np.ndarray, "s"],
    guidance_scales: Float[np.ndarray, "s"],
    seeds: UInt32[np.ndarray, "b"],
    guidance_rescale: float,
) -> tuple[UInt8[np.ndarray, "b H W 3"], Bool[np.ndarray, "b"]]:
    """Draws B pictures, one per seed, and says of each whether what was decoded is finite. B is a
    multiple of the number of devices.

    A second call compiles only if a shape, a dtype or `program` differs.

    Args:
        text_states: what the U-Net sees in each interval of diffusion time,
            [intervals, b, g, ...]. g = 2 is classifier-free guidance, [unconditional, conditional];
            with g = 1 `guidance_scales` and `guidance_rescale` have no effect.
        sizes: what SDXL is conditioned on, see `Photo.sizes`; other models ignore it.
        steps: the sampler's plan, S calls of the network.
        intervals: the interval of each call.
        guidance_scales: the guidance scale of each call.
        seeds: a picture's noise is a function of its seed alone.
    """
    arguments = (
        {"unet": sd.unet.params, "vae": sd.vae.params},
        place(text_states, batch_sharded(program.mesh, axis=1)),
        *place(
            (sizes, steps, intervals.astype(np.int32), guidance_scales), replicated(program.mesh)
        ),
        place(seeds, batch_sharded(program.mesh)),
        place(np.float32(guidance_rescale), replicated(program.mesh)),
    )
    call = drawing(program.mesh)
    key = program, tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(arguments[1:]))
    if key not in _COMPILED:
        compile_ahead(call, program, *arguments)
        _COMPILED.add(key)
    images, finite = call(program, *arguments)
    return fetch(images), fetch(finite)


@cache
def drawing(mesh: Mesh) -> Any:
    """The compiled part of `draw`, jitted for these devices."""
    return jax.jit(_draw, static_argnums=0, compiler_options=compiler_options(mesh))


def _draw(
    program: Program,
    params: dict[str, Params],
    text_states: TextStates,
    sizes: Int[Array, "n"],
    steps: Any,
    intervals: Int[Array, "s"],
    guidance_scales: Float[Array, "s"],
    seeds: UInt32[Array, "b"],
    guidance_rescale: Float[Array, ""],
) -> tuple[UInt8[Array, "b H W 3"], Bool[Array, "b"]]:
    sampler = program.sampler
    unet = nnx.merge(program.unet, nnx.State(params["unet"]))
    num_intervals, batch, passes = text_states.hidden.shape[:3]
    keys = jax.vmap(jax.random.key)(seeds)

    def noise(index: int | Int[Array, ""]) -> Float[Array, "b h w c"]:
        normal = jax.vmap(partial(_normal, index=index, shape=program.latent_shape))(keys)
        return jax.lax.with_sharding_constraint(normal, batch_sharded(program.mesh))

    # A branch only picks precomputed text states: the text encoder isn't part of the loop.
    branches = [
        partial(jax.tree.map, partial(jnp.take, indices=interval, axis=0), text_states)
        for interval in range(num_intervals)
    ]

    def call(state: Any, xs: Any) -> tuple[Any, None]:
        index, step, interval, guidance_scale = xs
        # The passes of one picture are adjacent, so that they stay on one device.
        context, pooled = jax.tree.map(
            lambda x: x.reshape(batch * passes, *x.shape[2:]), jax.lax.switch(interval, branches)
        )
        latents = jnp.repeat(sampler.model_input(state, step), passes, axis=0)
        timesteps = jnp.broadcast_to(step.timesteps, latents.shape[:1])
        told = jnp.broadcast_to(sizes, (batch * passes, *sizes.shape))
        out = unet(latents, timesteps, context, pooled, told)
        out = out.astype(jnp.float32).reshape(batch, passes, *out.shape[1:])
        prediction = out[:, -1]
        if passes == 2:
            prediction = guide(out[:, 0], out[:, 1], guidance_scale, guidance_rescale)
        fresh = noise(index + 1) if sampler.stochastic else None
        return sampler.update(state, prediction, step, fresh), None

    state = sampler.initialize(noise(0), steps)
    calls = jnp.arange(len(intervals)), steps, intervals, guidance_scales
    state, _ = jax.lax.scan(call, state, calls)
    return decode(program, params["vae"], sampler.finalize(state))


def decode(
    program: Program, params: Params, latents: Float[Array, "b h w c"]
) -> tuple[UInt8[Array, "b H W 3"], Bool[Array, "b"]]:
    """Decodes the U-Net's latents to pixels, and says which pictures' are finite."""
    vae = nnx.merge(program.vae, nnx.State(params))

    def pixels(
        latents: Float[Array, "b h w c"],
    ) -> tuple[UInt8[Array, "b H W 3"], Bool[Array, "b"]]:
        decoded = vae.decode(latents / program.scaling_factor)
        return to_pixels(decoded), jnp.isfinite(decoded).all((1, 2, 3))

    if not program.vae_slicing:
        return pixels(latents)
    # In each turn every device decodes one picture of its own.
    per_device = latents.reshape(program.mesh.size, -1, *latents.shape[1:])
    turns = jax.lax.with_sharding_constraint(
        per_device.swapaxes(0, 1), batch_sharded(program.mesh, axis=1)
    )
    images, finite = (x.swapaxes(0, 1) for x in jax.lax.map(pixels, turns))
    return images.reshape(-1, *images.shape[2:]), finite.reshape(-1)


def to_pixels(decoded: Float[Array, "*b H W 3"]) -> UInt8[Array, "*b H W 3"]:
    """What the autoencoder decodes, about -1 to 1, as a picture."""
    return jnp.round(255 * jnp.clip(decoded.astype(jnp.float32) / 2 + 0.5, 0, 1)).astype(jnp.uint8)


def _normal(
    key: PRNGKeyArray, index: int | Int[Array, ""], shape: tuple[int, int, int]
) -> Float[Array, "h w c"]:
    return jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32)
