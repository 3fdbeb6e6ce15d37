# SPDX-License-Identifier: Apache-2.0
"""The sampler interface: a plan made on the host, and pure step functions to scan over it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mrti_jax.diffusion.option import check_option
from mrti_jax.diffusion.prediction import PredictionType
from mrti_jax.diffusion.schedule import NoiseSchedule
from mrti_jax.diffusion.timesteps import TimestepSpacing
from mrti_jax.errors import UserError, nearest

FinalSigmasType = Literal["zero", "sigma_min"]


class State(NamedTuple):
    """What a sampler without memory carries from step to step."""

    latents: Float[Array, "..."]


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Turns noise into latents in a fixed number of network calls.

    Samplers are hashable (a static argument of `jax.jit`); all arithmetic is fp32.

        steps = sampler.plan(schedule, 50)                        # host
        state = sampler.initialize(noise, steps)                  # traced from here on
        def call(state, step):                                    # jax.lax.scan over steps
            prediction = network(sampler.model_input(state, step), step.timesteps)
            return sampler.update(state, prediction, step, fresh_noise), None
        latents = sampler.finalize(state)

    `plan` returns a NamedTuple of numpy arrays, `timesteps` among them, whose first axis is the
    network call; one row of it, as `scan` takes it, is the `step` of the functions. The fields are
    the options of the reference's scheduler of the same kind, under its names.
    """

    prediction_type: PredictionType = "epsilon"
    timestep_spacing: TimestepSpacing
    steps_offset: int = 0

    # Options of the reference's scheduler of which only this one value is supported.
    only: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @classmethod
    def from_config(cls, scheduler_config: Mapping[str, Any], **options: Any) -> "Sampler":
        """The sampler with the options in the `scheduler_config.json` of any scheduler.

        `options` override the file's; what neither sets has its default. Raises UserError for an
        unknown option, and for a value that this sampler doesn't support.
        """
        kinds = {field.name: field.type for field in fields(cls)}
        for name in options:
            if name not in kinds:
                raise UserError(
                    f"sampler {cls.__name__} has no option {name!r}: choose from "
                    f"{', '.join(kinds)}{nearest(name, kinds)}"
                )
        for name, value in cls.only.items():
            given = scheduler_config.get(name, value)
            if given != value and not (given is None and value is False):
                raise UserError(
                    f"scheduler config: {name} is {given!r}, but sampler "
                    f"{cls.__name__} supports only {value!r}: choose another sampler"
                )
        values = {name: scheduler_config[name] for name in kinds if name in scheduler_config}
        values |= options
        for name, value in values.items():
            check_option(name, value, kinds[name])
        return cls(**values)

    @property
    def stochastic(self) -> bool:
        """Whether `update` needs fresh noise."""
        return False

    @abstractmethod
    def plan(self, schedule: NoiseSchedule, num_steps: int) -> Any:
        """The timesteps and coefficients of all calls of the network; raises UserError."""

    def init_noise_sigma(self, steps: Any) -> Any:
        """Standard deviation of the noise that the sampler starts from."""
        return 1.0

    def initialize(self, noise: Float[Array, "*shape"], steps: Any) -> Any:
        """The state before the first call, from standard normal noise of the latents' shape."""
        return State(self.init_noise_sigma(steps) * noise.astype(jnp.float32))

    def model_input(self, state: Any, step: Any) -> Float[Array, "..."]:
        """What the network sees, fp32: noisy latents of variance about 1."""
        return state.latents

    @abstractmethod
    def update(
        self,
        state: Any,
        prediction: Float[Array, "*shape"],
        step: Any,
        noise: Float[Array, "*shape"] | None = None,
    ) -> Any:
        """The state after one call; `noise` is fresh standard normal noise if `stochastic`."""

    def finalize(self, state: Any) -> Float[Array, "..."]:
        """The clean latents, fp32."""
        return state.latents
