# SPDX-License-Identifier: Apache-2.0
"""The learning rate: its peak if none is given, and its schedule."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import learn, read_config
from mrti_jax.training.config import ConceptConfig, Config, OptimizerConfig
from mrti_jax.training.learning_rate import learning_rate_schedule, with_learning_rate


def test_it_is_a_share_of_the_size_of_the_token_embeddings(tiny_xl_folder: Path):
    sd = StableDiffusion.load(tiny_xl_folder)
    weights = [
        load_file(tiny_xl_folder / part / "model.safetensors")
        for part in ("text_encoder", "text_encoder_2")
    ]
    numbers = np.concatenate(
        [
            tensor.ravel()
            for part in weights
            for name, tensor in part.items()
            if name.endswith("token_embedding.weight")
        ]
    )
    for num_vectors in (1, 4):
        config = Config(concept=ConceptConfig(num_vectors=num_vectors))
        rate = with_learning_rate(config, sd.text_encoder).optimizer.learning_rate
        share = 0.3 / num_vectors
        # 5 %: it is rounded to two digits.
        assert rate == pytest.approx(share * np.sqrt(np.mean(np.square(numbers))), rel=0.05)

    encoder = sd.text_encoder
    larger = dataclasses.replace(encoder, params=jax.tree.map(lambda x: 10 * x, encoder.params))
    assert with_learning_rate(config, larger).optimizer.learning_rate == pytest.approx(10 * rate)


def test_one_that_is_given_stays(tiny_sd: StableDiffusion):
    config = Config(optimizer=OptimizerConfig(learning_rate=3e-3))
    assert with_learning_rate(config, tiny_sd.text_encoder) == config


@pytest.mark.slow
def test_the_run_tells_which_it_took(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    config = make_config(optimizer={"learning_rate": None})
    learn(tiny_sd, pictures, name="jane", initializer="red", out=tmp_path, config=config)
    told = read_config(tmp_path / "config.yaml").optimizer.learning_rate
    assert told == with_learning_rate(config, tiny_sd.text_encoder).optimizer.learning_rate
    assert told is not None and told > 0


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_run_may_be_shorter_than_its_warm_up(schedule: str):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=4)
    rates = np.asarray([learning_rate_schedule(config, 3)(step) for step in range(3)])
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_warm_up_and_then_the_schedule_of_the_config(schedule: str):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=4)
    rates = np.asarray([learning_rate_schedule(config, 20)(step) for step in range(21)])
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
    assert (np.diff(rates[4:]) <= 0).all()
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0, abs=1e-6)


@pytest.mark.parametrize("warm_up", [0, 4])
def test_cosine_and_linear_fall_as_their_formulas_say(warm_up: int):
    left = 20 - warm_up
    t = np.arange(left + 1) / left
    for schedule, want in {"cosine": (1 + np.cos(np.pi * t)) / 2, "linear": 1 - t}.items():
        config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=warm_up)
        rates = [learning_rate_schedule(config, 20)(warm_up + step) for step in range(left + 1)]
        np.testing.assert_allclose(rates, want, rtol=0, atol=1e-6)  # float32
