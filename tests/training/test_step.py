# SPDX-License-Identifier: Apache-2.0
"""The train step: frozen weights, devices, accumulation, compilations, and PyTorch's loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.concept import OBJECT_TEMPLATES, initializer_row
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import make_mesh, place, replicated
from mrti_jax.training.config import Config
from mrti_jax.training.draws import draw
from mrti_jax.training.images import Photo
from mrti_jax.training.latents import encode_moments, sample_latents
from mrti_jax.training.prompts import tokenize_captions
from mrti_jax.training.step import Data, frozen_params, initial_state, make_train_step


def start_table(sd: StableDiffusion, config: Config) -> np.ndarray:
    row = np.asarray(initializer_row("star", sd.tokenizer, sd.text_encoder))
    return np.tile(row, (config.concept.num_buckets, config.concept.num_vectors, 1))


def make_data(sd: StableDiffusion, config: Config, pictures: list[np.ndarray]) -> Data:
    photos = [Photo(str(i), picture) for i, picture in enumerate(pictures)]
    vectors = config.concept.num_vectors
    prompts = tokenize_captions(photos, "object", vectors, sd.tokenizer, captions=False)
    moments = encode_moments(sd.vae, np.stack(pictures), sd.mesh, flip=config.data.flip)
    data = Data(moments, *prompts, np.uint32(config.train.seed))
    return place(data, replicated(sd.mesh))


def run(sd: StableDiffusion, config: Config, pictures: list[np.ndarray]) -> dict[str, Any]:
    step = make_train_step(sd, config)
    state = initial_state(start_table(sd, config), config.optimizer, sd.mesh)
    data = make_data(sd, config, pictures)
    for _ in range(config.train.steps):
        state = step(state, frozen_params(sd), data)
    assert step._cache_size() == 1
    return jax.device_get(state)


def test_accumulation_and_devices_change_nothing_but_rounding(
    tiny_folder: Path, tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    config = make_config(data={"flip": True}, concept={"num_vectors": 2})
    whole = run(tiny_sd, config, pictures)
    in_parts = run(
        tiny_sd,
        make_config(data={"flip": True}, concept={"num_vectors": 2}, train={"accumulation": 2}),
        pictures,
    )
    alone = StableDiffusion.load(tiny_folder, mesh=make_mesh(jax.devices()[:1]))
    on_one = run(alone, config, pictures)
    for other in (in_parts, on_one):
        # Adam's first updates are nearly signs: float32 rounding of small gradients is enlarged.
        np.testing.assert_allclose(other["table"], whole["table"], rtol=0, atol=2e-5)
        np.testing.assert_array_equal(other["examples"], whole["examples"])
    assert np.abs(whole["table"] - start_table(tiny_sd, config)).max() > 5e-3
    assert whole["examples"].sum() == 16


def test_rows_without_examples_stand_still(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    config = make_config(train={"steps": 1}, optimizer={"weight_decay": 0.1})
    state = run(tiny_sd, config, pictures)
    idle = state["examples"] == 0
    start = start_table(tiny_sd, config)
    assert idle.sum() == 6 and (state["table"][idle] == start[idle]).all()
    assert (state["table"][~idle] != start[~idle]).any(axis=(1, 2)).all()
    assert (state["gradients"] == (~idle)).all()


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_fifty_updates_equal_a_plain_pytorch_loop(
    kind: str, request: pytest.FixtureRequest, pictures: list[np.ndarray], make_config: Callable
):
    """Same weights, moments, noise, timesteps and templates; AdamW on the table alone."""
    folder: Path = request.getfixturevalue("tiny_folder" if kind == "sd1" else "tiny_v_folder")
    sd: StableDiffusion = request.getfixturevalue("tiny_sd" if kind == "sd1" else "tiny_v_sd")
    config = make_config(
        train={"steps": 50, "batch_size": 2, "timesteps": "uniform"},
        optimizer={"dense": True, "weight_decay": 1e-2, "learning_rate": 2e-3},
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
    from transformers import CLIPTextModel

    torch.set_num_threads(1)  # its waiting threads would starve the others on few cores
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").requires_grad_(False)
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").requires_grad_(False)
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    data = make_data(sd, config, pictures)
    batch, buckets = config.train.batch_size, config.concept.num_buckets
    total = scheduler.config.num_train_timesteps
    assert len(data.ids) == len(OBJECT_TEMPLATES)

    table = torch.nn.Parameter(torch.tensor(start))
    settings = config.optimizer
    adamw = torch.optim.AdamW([table], settings.learning_rate, weight_decay=settings.weight_decay)
    words = encoder.get_input_embeddings().weight
    rows: Any = None

    def replace(module: Any, inputs: Any, output: Any) -> Any:
        embedded = words[ids].clone()
        for example, index in enumerate(vector_index):
            for position in np.flatnonzero(index >= 0):
                embedded[example, position] = rows[example, index[position]]
        return embedded

    encoder.get_input_embeddings().register_forward_hook(replace)
    for step in range(config.train.steps):
        one = draw(
            data.seed,
            jnp.int32(step),
            jnp.arange(batch, dtype=jnp.int32),
            batch_size=batch,
            latent_shape=(8, 8, 4),
            num_train_timesteps=total,
            timesteps=config.train.timesteps,
            flip=False,
            first_prompt=data.first_prompt,
            num_prompts=data.num_prompts,
        )
        latents = sample_latents(data.moments[0][one.photo], one.latent_noise, 0.18215)
        latents = torch.tensor(np.asarray(latents)).permute(0, 3, 1, 2)
        noise = torch.tensor(np.asarray(one.noise)).permute(0, 3, 1, 2)
        times = torch.tensor(np.asarray(one.timestep)).long()
        ids = torch.tensor(np.asarray(data.ids[one.prompt])).long()
        vector_index = np.asarray(data.vector_index[one.prompt])

        rows = table[times * buckets // total]
        context = encoder(input_ids=ids).last_hidden_state
        prediction = unet(scheduler.add_noise(latents, noise, times), times, context).sample
        is_epsilon = scheduler.config.prediction_type == "epsilon"
        target = noise if is_epsilon else scheduler.get_velocity(latents, noise, times)
        adamw.zero_grad()
        torch.nn.functional.mse_loss(prediction, target).backward()
        adamw.step()
    return table.detach().numpy()
