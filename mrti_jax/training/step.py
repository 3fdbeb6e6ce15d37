# SPDX-License-Identifier: Apache-2.0
"""The train step: one update of each concept's table, over all devices. The rest is frozen.

Multiresolution Textual Inversion (Daras & Dimakis 2022, arXiv 2211.17115), section 3: the mean
squared error of the model's prediction at a random timestep t, with row bucket(t) of the table in
the word's place.
"""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int, UInt32

from mrti_jax.concept import bucket, splice
from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.unet import UNetLevel
from mrti_jax.parallel.compiler import compiler_options
from mrti_jax.parallel.mesh import batch_sharded
from mrti_jax.training.config import Config, OptimizerConfig, TrainConfig
from mrti_jax.training.draws import draw
from mrti_jax.training.latents import sample_latents
from mrti_jax.training.optim import initial_optimizer, update_table
from mrti_jax.training.slots import divides, padded, slots_sharded

State = dict[str, Any]
"""`table` [N, V, D] float32; `optimizer`; `step` int32, updates done; `examples` and `gradients`
[N] int32, how many examples trained each row and how many updates had a gradient for it;
`window`: `loss` [N] float32 and `examples` [N] int32, sums since the metrics were last read;
`fault` [N] bool, rows whose loss, gradient or update was not finite: the rest then stays the same.

The train step has S of them in slots, along a new first axis of every array (see `slots.py`)."""

TrainStep = Callable[[State, dict[str, Any], "Data", Float32[Array | np.ndarray, "s"]], State]


class Data(NamedTuple):
    """What the step trains on, on the devices: for one concept, or for S in slots, like `State`.

    `moments` [F, M, h, w, 2C]: of M photos, and mirrored (F = 2). `sizes` [F, M, 6]: see `Photo`.
    `ids` and `vector_index` [K, E, L]: the captions' token ids for each of E text models, and v
    where the concept's vector v goes, else -1; `end` [K, E]: where the captions end. Photo m has
    the captions `first_prompt[m]` .. `first_prompt[m] + num_prompts[m] - 1`; a photo without
    captions only fills the arrays. `steps`: updates in all.
    """

    moments: Float[Array, "f m h w c"]
    sizes: Int[Array, "f m s"]
    ids: Int[Array, "k e l"]
    vector_index: Int[Array, "k e l"]
    end: Int[Array, "k e"]
    first_prompt: Int[Array, "m"]
    num_prompts: Int[Array, "m"]
    seed: UInt32[Array, ""]
    steps: Int[Array, ""]


class Examples(NamedTuple):
    """What B examples, of any concepts, are made of; see `Data` and `Draws`."""

    moments: Float[Array, "b h w m"]
    latent_noise: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]
    timestep: Int[Array, "b"]
    bucket: Int[Array, "b"]
    rows: Float[Array, "b v d"]
    ids: Int[Array, "b e l"]
    vector_index: Int[Array, "b e l"]
    end: Int[Array, "b e"]
    sizes: Int[Array, "b s"]


def initial_state(table: Float[np.ndarray, "n v d"], optimizer: OptimizerConfig) -> State:
    """The state of one concept before the first update."""
    rows = len(table)
    counts = np.zeros(rows, np.int32)
    return {
        "table": table,
        "optimizer": initial_optimizer(optimizer, jnp.asarray(table)),
        "step": np.int32(0),
        "examples": counts,
        "gradients": counts,
        "window": {"loss": np.zeros(rows, np.float32), "examples": counts},
        "fault": np.zeros(rows, bool),
    }


def make_train_step(sd: StableDiffusion, config: Config, *, remat: bool = False) -> TrainStep:
    """The jitted `train_step(state, frozen, data, rates) -> state`; `frozen` is
    `frozen_params(sd)`, `rates` [S] the learning rate of each slot.

    State and data are those of S slots, each with a batch of its own; all examples go through the
    model together. A slot that has done all its updates, or had one that was not finite, stays the
    same. `state` is donated. With `remat` the gradient recomputes the U-Net's blocks. Compiled once
    per model, shapes and the settings that change the program; the number of updates and the course
    of the learning rate don't.
    """
    return _train_step(
        sd.text_encoder.graphdef,
        sd.unet.graphdef,
        json.dumps(sd.scheduler_config, sort_keys=True),
        float(sd.vae.config.scaling_factor),
        config.concept.num_buckets,
        *_deciding(config),
        remat,
        sd.mesh,
    )


def frozen_params(sd: StableDiffusion) -> dict[str, Any]:
    """The weights that the step reads."""
    return {"text_encoder": sd.text_encoder.params, "unet": sd.unet.params}


def _deciding(config: Config) -> tuple[OptimizerConfig, TrainConfig]:
    """Only the settings that change the program: others must not recompile it."""
    optimizer, train = config.optimizer, config.train
    return OptimizerConfig(
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        dense=optimizer.dense,
        sharing=optimizer.sharing,
    ), TrainConfig(
        batch_size=train.batch_size,
        accumulation=train.accumulation,
        timesteps=train.timesteps,
        weighting=train.weighting,
        min_snr_gamma=train.min_snr_gamma,
    )


@functools.lru_cache(maxsize=8)
def _train_step(
    text_encoder: nnx.GraphDef,
    unet: nnx.GraphDef,
    scheduler_config: str,
    scaling_factor: float,
    num_buckets: int,
    optimizer: OptimizerConfig,
    train: TrainConfig,
    remat: bool,
    mesh: Mesh,
) -> TrainStep:
    schedule = NoiseSchedule.from_config(json.loads(scheduler_config))
    microbatch_size = train.microbatch_size

    def pick(
        table: Float[Array, "n v d"], step: Int[Array, ""], data: Data, index: Int[Array, "b"]
    ) -> Examples:
        """The examples `index` of one concept's batch."""
        height, width, channels = data.moments.shape[2:]
        draws = draw(
            data.seed,
            step,
            index,
            batch_size=train.batch_size,
            latent_shape=(height, width, channels // 2),
            num_train_timesteps=schedule.num_train_timesteps,
            timesteps=train.timesteps,
            flip=len(data.moments) == 2,
            first_prompt=data.first_prompt,
            num_prompts=data.num_prompts,
        )
        buckets = bucket(draws.timestep, num_buckets, schedule.num_train_timesteps)
        mirrored = draws.mirrored.astype(jnp.int32)
        return Examples(
            moments=data.moments[mirrored, draws.photo],
            latent_noise=draws.latent_noise,
            noise=draws.noise,
            timestep=draws.timestep,
            bucket=buckets,
            rows=table[buckets],
            ids=data.ids[draws.prompt],
            vector_index=data.vector_index[draws.prompt],
            end=data.end[draws.prompt],
            sizes=data.sizes[mirrored, draws.photo],
        )

    def errors(examples: Examples, frozen: dict[str, Any]) -> Float[Array, "b"]:
        """The mean squared error of each prediction."""
        latents = sample_latents(examples.moments, examples.latent_noise, scaling_factor)
        noisy = schedule.add_noise(latents, examples.noise, examples.timestep)
        target = schedule.target(latents, examples.noise, examples.timestep)

        encoder = nnx.merge(text_encoder, nnx.State(frozen["text_encoder"]))
        spliced = splice(encoder.embed(examples.ids), examples.vector_index, examples.rows)
        context, pooled = encoder.encode(spliced, examples.end)

        denoiser = nnx.merge(unet, nnx.State(frozen["unet"]))
        denoiser.set_attributes(UNetLevel, remat=remat)
        prediction = denoiser(noisy, examples.timestep, context, pooled, examples.sizes)
        return jnp.mean(jnp.square(prediction.astype(jnp.float32) - target), axis=(1, 2, 3))

    def losses(
        table: Float[Array, "s n v d"], step: Int[Array, "s"], first: Int[Array, ""], args: Any
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """A microbatch's share of the batches' weighted mean losses, and its sums per slot and
        bucket."""
        frozen, data = args
        place = jnp.arange(padded(microbatch_size, len(table), mesh.size), dtype=jnp.int32)
        index = first + place % microbatch_size  # the first again, to fill all devices
        counts = place < microbatch_size
        # The axis split over the devices, slots or examples, comes first: merging then moves none.
        axis = 0 if divides(len(table), mesh) else 1
        picked = jax.vmap(pick, in_axes=(0, 0, 0, None), out_axes=axis)(table, step, data, index)
        examples = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), picked)
        examples = jax.lax.with_sharding_constraint(examples, batch_sharded(mesh))
        loss = errors(examples, frozen).reshape(picked.bucket.shape)
        loss = jnp.where(jnp.expand_dims(counts, axis), loss, 0.0)

        def add_up(loss: Float[Array, "b"], buckets: Int[Array, "b"]) -> dict[str, Array]:
            return {
                "loss": jnp.zeros(num_buckets).at[buckets].add(loss),
                "examples": jnp.zeros(num_buckets, jnp.int32).at[buckets].add(counts),
            }

        sums = jax.vmap(add_up, in_axes=axis)(loss, picked.bucket)
        weight: Array | float = 1.0
        if train.weighting == "min_snr":
            weight = schedule.min_snr_weight(examples.timestep, train.min_snr_gamma)
            weight = weight.reshape(loss.shape)
        return jnp.sum(weight * loss) / train.batch_size, sums

    gradient_of = jax.grad(losses, has_aux=True)

    def update(
        state: State,
        gradient: Float[Array, "n v d"],
        sums: dict[str, Array],
        rate: Float[Array, ""],
        steps: Int[Array, ""],
    ) -> State:
        """The state of one slot after the update."""
        trained = sums["examples"] > 0
        table, optimizer_state = update_table(
            optimizer,
            rate,
            state["table"],
            gradient,
            state["optimizer"],
            trained,
        )
        updated = {
            "table": table,
            "optimizer": optimizer_state,
            "step": state["step"] + 1,
            "examples": state["examples"] + sums["examples"],
            "gradients": state["gradients"] + jnp.any(gradient != 0, axis=(1, 2)),
            "window": jax.tree.map(jnp.add, state["window"], sums),
        }
        fault = ~(jnp.isfinite(gradient).all((1, 2)) & jnp.isfinite(sums["loss"]))
        # One bad gradient spoils all rows that share it: the table tells only if nothing else does.
        fault = jnp.where(fault.any(), fault, ~jnp.isfinite(table).all((1, 2)))
        stay = jnp.any(fault) | (state["step"] >= steps)
        before = {name: state[name] for name in updated}
        kept = jax.tree.map(lambda new, old: jnp.where(stay, old, new), updated, before)
        return kept | {"fault": fault}

    @functools.partial(jax.jit, donate_argnames="state", compiler_options=compiler_options(mesh))
    def train_step(
        state: State, frozen: dict[str, Any], data: Data, rates: Float32[Array, "s"]
    ) -> State:
        def add_part(total: Any, number: Int[Array, ""]) -> tuple[Any, None]:
            first = number * microbatch_size
            one = gradient_of(state["table"], state["step"], first, (frozen, data))
            return jax.tree.map(jnp.add, total, one), None

        zero = jax.tree.map(jnp.zeros_like, (state["table"], state["window"]))
        if train.accumulation == 1:  # no loop: XLA's CPU convolutions are slow inside one
            (gradient, sums), _ = add_part(zero, jnp.int32(0))
        else:
            parts = jnp.arange(train.accumulation, dtype=jnp.int32)
            (gradient, sums), _ = jax.lax.scan(add_part, zero, parts)
        updated = jax.vmap(update)(state, gradient, sums, rates, data.steps)
        return jax.lax.with_sharding_constraint(updated, slots_sharded(mesh, len(state["table"])))

    return train_step
