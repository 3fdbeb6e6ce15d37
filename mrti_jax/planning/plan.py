# SPDX-License-Identifier: Apache-2.0
"""What a train step or a batch of pictures costs on TPUs, by their compiler, without a TPU."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrti_jax.errors import UserError
from mrti_jax.models.attention import Kernel, choose_kernel
from mrti_jax.models.choices import AttentionChoice
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import choose_fsdp
from mrti_jax.planning.chips import CHIPS
from mrti_jax.planning.flops import count_flops
from mrti_jax.planning.presets import find_preset, shapes_only
from mrti_jax.planning.sampling import count_calls, trace_decoding, trace_sampling
from mrti_jax.planning.tpu_compiler import Cost, compile_cost, tpu_mesh
from mrti_jax.planning.train_step import trace_train_step
from mrti_jax.sampling.memory import needs_slicing
from mrti_jax.sampling.size import picture_side
from mrti_jax.training.config import Config, check
from mrti_jax.training.memory import needs_remat


@dataclasses.dataclass(frozen=True)
class Target:
    """A model, the chips that it is compiled for, and how its attention is computed there."""

    model: str
    chip: str
    num_chips: int
    dtype: str
    attention: AttentionChoice


@dataclasses.dataclass(frozen=True)
class Plan(Cost):
    """What a program costs on each chip, with loops counted in full.

    Attributes:
        flops: multiplications and additions.
        seconds: the minimum time that arithmetic and memory traffic allow.
        saves_memory: whether the step recomputes blocks, or pictures are decoded one by one.
        fsdp: how many chips share the weights, each holding a part.
    """

    flops: float
    seconds: float
    saves_memory: bool
    fsdp: int


def models(target: Target) -> tuple[StableDiffusion, StableDiffusion]:
    """The model with its attention kernel, and with one whose arithmetic can be counted."""
    preset = find_preset(target.model)

    def on(mesh: Mesh, kernel: Kernel) -> StableDiffusion:
        return shapes_only(target.model, preset, mesh, target.dtype, kernel)

    mesh = tpu_mesh(target.chip, target.num_chips)
    num_weights = sum(leaf.size for leaf in jax.tree.leaves(on(mesh, Kernel("xla", mesh)).params))
    weight_bytes = num_weights * jnp.dtype(target.dtype).itemsize
    fsdp = choose_fsdp(weight_bytes, target.num_chips, _memory(target))
    mesh = tpu_mesh(target.chip, target.num_chips, fsdp=fsdp)
    chosen = choose_kernel(target.attention, mesh, target.dtype)
    return on(mesh, chosen), on(mesh, Kernel("xla", mesh))


def plan_training(target: Target, config: Config, size: int | None) -> Plan:
    """A train step of `config` on pictures of `size` pixels. Raises UserError and DoesNotFit."""
    check(config)
    compiled, countable = models(target)
    size = picture_side(compiled, "size", size)
    latent_shape = compiled.vae.config.latent_shape(size, size)
    remat = needs_remat(compiled, config, latent_shape, _memory(target))
    cost = compile_cost(trace_train_step(compiled, config, size, remat=remat).lower())
    turns = config.train.accumulation  # the compiler counts the body of a loop once
    cost = dataclasses.replace(
        cost,
        bytes_accessed=turns * cost.bytes_accessed,
        traffic=turns * cost.traffic,
        bytes_between=turns * cost.bytes_between,
    )
    counted = trace_train_step(countable, config, size, remat=remat)
    return _plan(target, compiled, counted, cost, remat)


def plan_sampling(target: Target, size: int | None, batch_size: int, num_steps: int) -> Plan:
    """A batch of pictures with guidance. Raises UserError and DoesNotFit."""
    given = {"steps": num_steps, "batch_size": batch_size, "chips": target.num_chips}
    for name, value in given.items():
        if value < 1:
            raise UserError(f"{name} is {value}, but must be at least 1")
    if batch_size % target.num_chips:
        whole = -(-batch_size // target.num_chips) * target.num_chips
        raise UserError(
            f"{batch_size} pictures do not divide over {target.num_chips} chips: use {whole}"
        )
    compiled, countable = models(target)
    size = picture_side(compiled, "size", size)
    sliced = needs_slicing(compiled, "auto", size, size, batch_size, _memory(target))
    traced, counted = (
        trace_sampling(sd, size, batch_size, num_steps, vae_slicing=sliced)
        for sd in (compiled, countable)
    )
    cost = compile_cost(traced.lower())
    # The compiler counts the body of a loop once: a call of the U-Net, and a picture if sliced.
    turns = batch_size // target.num_chips if sliced else 1
    decoding = compile_cost(trace_decoding(compiled, size, batch_size // turns).lower())
    calls = count_calls(compiled, num_steps)

    def repeated(whole: float, decoding: float) -> float:
        return turns * decoding + calls * (whole - decoding)

    in_all = dataclasses.replace(
        cost,
        bytes_accessed=repeated(cost.bytes_accessed, decoding.bytes_accessed),
        traffic=repeated(cost.traffic, decoding.traffic),
        bytes_between=round(repeated(cost.bytes_between, decoding.bytes_between)),
    )
    return _plan(target, compiled, counted, in_all, sliced)


def _plan(
    target: Target,
    sd: StableDiffusion,
    counted: jax.stages.Traced,
    cost: Cost,
    saves_memory: bool,
) -> Plan:
    chip = CHIPS[target.chip]
    flops = count_flops(counted.jaxpr) / target.num_chips
    return Plan(
        **vars(cost),
        flops=flops,
        seconds=max(flops / chip.flops, cost.traffic / chip.bandwidth),
        saves_memory=saves_memory,
        fsdp=sd.mesh.shape["fsdp"],
    )


def _memory(target: Target) -> int:
    return int(CHIPS[target.chip].memory)
