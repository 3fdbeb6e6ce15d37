# SPDX-License-Identifier: Apache-2.0
"""What a train step or a batch of pictures costs on TPUs, by their compiler and without any."""

import dataclasses
from collections.abc import Callable

import jax

from mrti_jax.models.attention import Kernel, Kind, choose_kernel
from mrti_jax.models.presets import find_preset, shapes_only
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.aot import CHIPS, Cost, compile_cost, tpu_mesh
from mrti_jax.parallel.flops import count_flops
from mrti_jax.sampling.aot import count_calls, trace_decoding, trace_sampling
from mrti_jax.training.aot import trace_train_step
from mrti_jax.training.config import Config


@dataclasses.dataclass(frozen=True)
class Target:
    """A model, the chips that it is compiled for, and how its attention is computed there."""

    model: str
    chip: str
    num_chips: int
    dtype: str
    attention: Kind | str


@dataclasses.dataclass(frozen=True)
class Plan:
    """Per chip: multiplications and additions, bytes to and from memory, bytes of memory."""

    flops: float
    bytes_accessed: float
    arguments: int
    temporaries: int
    seconds: float


def models(target: Target) -> tuple[StableDiffusion, StableDiffusion]:
    """The model with its attention kernel, and with one whose arithmetic can be counted."""
    mesh = tpu_mesh(target.chip, target.num_chips)
    preset = find_preset(target.model)
    chosen = choose_kernel(target.attention, mesh, target.dtype)  # type: ignore[arg-type]
    return tuple(
        shapes_only(target.model, preset, mesh, target.dtype, kernel)
        for kernel in (chosen, Kernel("xla", mesh))
    )  # type: ignore[return-value]


def plan_training(target: Target, config: Config, size: int | None) -> Plan:
    """A train step of `config` on pictures of `size` pixels. Raises UserError and DoesNotFit."""

    def trace(sd: StableDiffusion) -> jax.stages.Traced:
        return trace_train_step(sd, config, size or _own_size(sd), int(CHIPS[target.chip].memory))

    return _plan(target, trace, lambda sd, cost: cost.bytes_accessed)


def plan_sampling(target: Target, size: int | None, batch_size: int, num_steps: int) -> Plan:
    """A batch of pictures with guidance. Raises UserError and DoesNotFit."""

    def trace(sd: StableDiffusion) -> jax.stages.Traced:
        return trace_sampling(sd, size or _own_size(sd), batch_size, num_steps)

    def all_bytes(sd: StableDiffusion, cost: Cost) -> float:
        # The compiler counts the loop's body once.
        decoding = trace_decoding(sd, size or _own_size(sd), batch_size)
        outside = compile_cost(decoding.lower()).bytes_accessed
        return outside + count_calls(sd, num_steps) * (cost.bytes_accessed - outside)

    return _plan(target, trace, all_bytes)


def _plan(
    target: Target,
    trace: Callable[[StableDiffusion], jax.stages.Traced],
    all_bytes: Callable[[StableDiffusion, Cost], float],
) -> Plan:
    compiled, countable = models(target)
    flops = count_flops(trace(countable).jaxpr) / target.num_chips
    cost = compile_cost(trace(compiled).lower())
    bytes_accessed = all_bytes(compiled, cost)
    chip = CHIPS[target.chip]
    return Plan(
        flops=flops,
        bytes_accessed=bytes_accessed,
        arguments=cost.arguments,
        temporaries=cost.temporaries,
        seconds=max(flops / chip.flops, bytes_accessed / chip.bandwidth),
    )


def _own_size(sd: StableDiffusion) -> int:
    return sd.unet.config.sample_size * sd.vae.config.downscale
