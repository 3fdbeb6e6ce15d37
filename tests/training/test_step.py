# SPDX-License-Identifier: Apache-2.0
"""The train step: frozen weights, devices, accumulation, compilations, and PyTorch's loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.concept import OBJECT_TEMPLATES, bucket, initial_vectors
from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import make_mesh
from mrti_jax.training.config import Config
from mrti_jax.training.draws import Draws, draw
from mrti_jax.training.learning_rate import learning_rates
from mrti_jax.training.slots import fill
from mrti_jax.training.step import Data, frozen_params, initial_state, make_train_step
from mrti_jax.training.subject import Subject
from mrti_jax.training.training_set import TrainingSet, read_training_set

SIZE = 16


def start_table(sd: StableDiffusion, config: Config) -> np.ndarray:
    wanted = config.concept
    vectors = initial_vectors("star", wanted.num_vectors, sd.tokenizers, sd.text_encoder)
    return np.tile(vectors, (wanted.num_buckets, 1, 1))


def training_set(sd: StableDiffusion, config: Config, pictures: list[np.ndarray]) -> TrainingSet:
    subject = Subject(images=pictures, name="jane", initializer="star")
    return read_training_set(sd, subject, config, SIZE)


def make_data(sd: StableDiffusion, config: Config, pictures: list[np.ndarray]) -> Data:
    read = training_set(sd, config, pictures)
    return read.encode(sd, *read.extent, config.train)


def first_draws(sd: StableDiffusion, config: Config, data: Data) -> Draws:
    """What is random in the first update."""
    return draws_of(sd, config, data, 0, (1, 1, 1))


def draws_of(
    sd: StableDiffusion, config: Config, data: Data, step: int, latent_shape: tuple[int, int, int]
) -> Draws:
    return draw(
        data.seed,
        jnp.int32(step),
        jnp.arange(config.train.batch_size, dtype=jnp.int32),
        batch_size=config.train.batch_size,
        latent_shape=latent_shape,
        num_train_timesteps=sd.scheduler_config["num_train_timesteps"],
        timesteps=config.train.timesteps,
        flip=config.data.flip,
        first_prompt=data.first_prompt,
        num_prompts=data.num_prompts,
    )


def run(sd: StableDiffusion, config: Config, pictures: list[np.ndarray]) -> dict[str, Any]:
    step = make_train_step(sd, config)
    state = fill(initial_state(start_table(sd, config), config.optimizer), 1, sd.mesh)
    data = fill(make_data(sd, config, pictures), 1, sd.mesh)
    for rate in learning_rates(config.optimizer, config.train.steps):
        state = step(state, frozen_params(sd), data, rate[None])
    assert step._cache_size() == 1
    return jax.tree.map(lambda array: np.asarray(array)[0], state)


def test_more_updates_and_other_rates_compile_nothing_new(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    for steps, optimizer in (
        (1, {"learning_rate": 0.01}),
        (3, {"learning_rate": 0.02, "schedule": "linear", "warmup_steps": 1}),
    ):
        # `run` counts what was compiled.
        run(tiny_sd, make_config(train={"steps": steps}, optimizer=optimizer), pictures)


@pytest.mark.slow
def test_accumulation_and_devices_change_nothing_but_rounding(
    tiny_folder: Path, tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    config, parts = (
        make_config(
            data={"flip": True},
            concept={"num_vectors": 2},
            train={"batch_size": 6, "accumulation": accumulation},
        )
        for accumulation in (1, 2)
    )
    whole = run(tiny_sd, config, pictures)
    in_parts = run(tiny_sd, parts, pictures)  # of 3 examples, which two devices can't share equally
    alone = StableDiffusion.load(tiny_folder, mesh=make_mesh(jax.devices()[:1]))
    on_one = run(alone, config, pictures)
    # Bit for bit: a run that is resumed elsewhere is recognized by it.
    np.testing.assert_array_equal(start_table(alone, config), start_table(tiny_sd, config))
    for other in (in_parts, on_one):
        # Adam's first updates are nearly signs: float32 rounding of small gradients is enlarged.
        np.testing.assert_allclose(other["table"], whole["table"], rtol=0, atol=2e-5)
        for count in ("examples", "gradients"):
            np.testing.assert_array_equal(other[count], whole[count])
        window = [state["window"]["loss"] for state in (other, whole)]
        np.testing.assert_allclose(*window, rtol=1e-4)
    assert np.abs(whole["table"] - start_table(tiny_sd, config)).max() > 5e-3
    assert whole["examples"].sum() == 24


@pytest.mark.slow
def test_rows_without_examples_stand_still(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    config = make_config(train={"steps": 1}, optimizer={"weight_decay": 0.1, "sharing": 0.0})
    state = run(tiny_sd, config, pictures)
    idle = state["examples"] == 0
    start = start_table(tiny_sd, config)
    assert idle.sum() == 6 and (state["table"][idle] == start[idle]).all()
    assert (state["table"][~idle] != start[~idle]).any(axis=(1, 2)).all()
    assert (state["gradients"] == (~idle)).all()


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
def test_a_fault_is_told_of_the_buckets_of_the_photo_that_makes_it(
    flip: bool, tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    """The second photo or, with `flip`, the mirrored ones."""
    config = make_config(
        data={"flip": flip}, train={"steps": 1, "batch_size": 6}, optimizer={"sharing": 0.5}
    )
    data = make_data(tiny_sd, config, pictures)
    bad = (1,) if flip else (slice(None), 1)
    data = data._replace(moments=data.moments.at[bad].set(np.nan))
    state = fill(initial_state(start_table(tiny_sd, config), config.optimizer), 1, tiny_sd.mesh)
    after = make_train_step(tiny_sd, config)(
        state, frozen_params(tiny_sd), fill(data, 1, tiny_sd.mesh), np.zeros(1, np.float32)
    )
    draws = first_draws(tiny_sd, config, data)
    has_bad = draws.mirrored if flip else draws.photo == 1
    at_fault = np.asarray(bucket(draws.timestep, 10, 1000))[np.asarray(has_bad)]
    assert 0 < len(at_fault) < 6
    np.testing.assert_array_equal(np.flatnonzero(after["fault"][0]), np.unique(at_fault))


@pytest.mark.slow
def test_min_snr_weighs_each_example_by_its_time(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    plain, weighted = (
        make_config(
            train={"steps": 1, "weighting": weighting, "min_snr_gamma": 0.5},
            optimizer={"weight_decay": 0.1, "sharing": 0.0},
        )
        for weighting in ("uniform", "min_snr")
    )
    data = make_data(tiny_sd, plain, pictures)
    schedule = NoiseSchedule.from_config(tiny_sd.scheduler_config)
    timestep = first_draws(tiny_sd, plain, data).timestep
    rows = np.asarray(bucket(timestep, 10, schedule.num_train_timesteps))
    assert len(set(rows)) == 4  # so that a row's gradient is that of one example
    weights = np.zeros((10, 1, 1), np.float32)
    weights[rows, 0, 0] = schedule.min_snr_weight(timestep, 0.5)
    without, found = (run(tiny_sd, config, pictures) for config in (plain, weighted))
    moments = [state["optimizer"].mu for state in (without, found)]
    # float32, relative to the largest of each row
    scale = np.abs(moments[1]).max(axis=(1, 2), keepdims=True) + 1e-30
    np.testing.assert_allclose(moments[1] / scale, weights * moments[0] / scale, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["window"]["loss"], without["window"]["loss"])


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["tiny", "tiny_v", "tiny_xl"])
@pytest.mark.filterwarnings("ignore:.*enlarged")
def test_fifty_updates_equal_a_plain_pytorch_loop(
    kind: str, request: pytest.FixtureRequest, pictures: list[np.ndarray], make_config: Callable
):
    """Same weights, photos, noise, timesteps and templates; AdamW on the table alone."""
    folder: Path = request.getfixturevalue(f"{kind}_folder")
    sd: StableDiffusion = request.getfixturevalue(f"{kind}_sd")
    if kind == "tiny_xl":  # larger, smaller, wide and tall photos
        pictures = [np.repeat(pictures[0], 3, axis=1), pictures[1][:, :7], pictures[2][:12]]
    config = make_config(
        train={"steps": 50, "batch_size": 2, "timesteps": "uniform"},
        optimizer={"dense": True, "sharing": 0.0, "weight_decay": 1e-2, "learning_rate": 2e-3},
        concept={"num_vectors": 2},
    )
    ours = run(sd, config, pictures)["table"]
    start = start_table(sd, config)
    theirs = pytorch_loop(folder, sd, config, pictures, start)
    moved = np.abs(theirs - start).max()
    assert moved > 0.02
    # The error is measured against what was learned, not against the size of the embeddings.
    assert np.abs(ours - theirs).max() < 1e-3 * moved


def pytorch_loop(
    folder: Path,
    sd: StableDiffusion,
    config: Config,
    pictures: list[np.ndarray],
    start: np.ndarray,
) -> np.ndarray:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    import transformers

    torch.set_num_threads(1)  # its waiting threads would starve the others on few cores
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").requires_grad_(False)
    encoders = [
        getattr(transformers, name).from_pretrained(folder / part).requires_grad_(False)
        for part, name in (
            ("text_encoder", "CLIPTextModel"),
            ("text_encoder_2", "CLIPTextModelWithProjection"),
        )
        if (folder / part).is_dir()
    ]
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    read = training_set(sd, config, pictures)
    data = read.encode(sd, *read.extent, config.train)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False)
    pixels = torch.tensor(read.pixels).float().permute(0, 3, 1, 2)
    moments = vae.encode(2 * pixels / 255 - 1).latent_dist
    buckets = config.concept.num_buckets
    total = scheduler.config.num_train_timesteps
    assert len(data.ids) == len(OBJECT_TEMPLATES)

    table = torch.nn.Parameter(torch.tensor(start))
    settings = config.optimizer
    adamw = torch.optim.AdamW([table], settings.learning_rate, weight_decay=settings.weight_decay)
    # Of the step at hand: token ids and vector indices by text model, rows by text model.
    ids: Any = None
    vector_index: Any = None
    rows: Any = None

    def replace(number: int, words: Any) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            embedded = words[ids[:, number]].clone()
            for example, index in enumerate(vector_index[:, number]):
                for position in np.flatnonzero(index >= 0):
                    embedded[example, position] = rows[number][example, index[position]]
            return embedded

        return hook

    for number, encoder in enumerate(encoders):
        words = encoder.get_input_embeddings()
        words.register_forward_hook(replace(number, words.weight))
    widths = [encoder.config.hidden_size for encoder in encoders]
    for step in range(config.train.steps):
        one = draws_of(sd, config, data, step, (8, 8, 4))
        photos = torch.tensor(np.asarray(one.photo)).long()
        latent_noise = torch.tensor(np.asarray(one.latent_noise)).permute(0, 3, 1, 2)
        latents = moments.mean[photos] + moments.std[photos] * latent_noise
        latents = latents * vae.config.scaling_factor
        noise = torch.tensor(np.asarray(one.noise)).permute(0, 3, 1, 2)
        times = torch.tensor(np.asarray(one.timestep)).long()
        ids = torch.tensor(np.asarray(data.ids[one.prompt])).long()
        vector_index = np.asarray(data.vector_index[one.prompt])

        rows = table[times * buckets // total].split(widths, dim=-1)
        outputs = [
            encoder(input_ids=ids[:, number], output_hidden_states=True)
            for number, encoder in enumerate(encoders)
        ]
        more = {}
        if len(encoders) == 1:
            context = outputs[0].last_hidden_state
        else:
            context = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
            sizes = torch.tensor(np.asarray(data.sizes[0, one.photo]))
            more = {"text_embeds": pooled(encoders[1], outputs[1], data.end[one.prompt, 1])}
            more["time_ids"] = sizes
        noisy = scheduler.add_noise(latents, noise, times)
        prediction = unet(noisy, times, context, added_cond_kwargs=more).sample
        is_epsilon = scheduler.config.prediction_type == "epsilon"
        target = noise if is_epsilon else scheduler.get_velocity(latents, noise, times)
        adamw.zero_grad()
        torch.nn.functional.mse_loss(prediction, target).backward()
        adamw.step()
    return table.detach().numpy()


def pooled(encoder: Any, output: Any, end: Any) -> Any:
    """Where the caption ends: transformers would take the first end-of-text id, the word's own."""
    last = output.last_hidden_state
    return encoder.text_projection(last[range(len(last)), end.tolist()])
