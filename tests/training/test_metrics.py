# SPDX-License-Identifier: Apache-2.0
"""The numbers of metrics.jsonl, against NumPy."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from etils import epath
from metrics_file import read_metrics
from tiny import tiny_concept

from mrti_jax.concept import initial_vectors
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import learn
from mrti_jax.training.config import ConceptConfig
from mrti_jax.training.loop import _Loop
from mrti_jax.training.metrics import Metrics


def test_a_run_tells_the_rate_of_each_update_and_how_far_a_row_has_turned(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    config = make_config(
        concept={"num_buckets": 1},
        optimizer={"schedule": "linear", "warmup_steps": 2, "learning_rate": 0.03},
        train={"steps": 5, "metrics_every": 1},
    )
    concept = learn(tiny_sd, pictures, name="jane", initializer="red", out=tmp_path, config=config)
    told = read_metrics(tmp_path)
    rates = [line["learning_rate"] for line in told]
    np.testing.assert_allclose(rates, [0.01, 0.02, 0.03, 0.02, 0.01], rtol=1e-6)
    models = tiny_sd.tokenizers, tiny_sd.text_encoder
    start = initial_vectors("red", ConceptConfig.num_vectors, *models).ravel()
    row = concept.embeddings.ravel()
    cosine = row @ start / np.linalg.norm(row) / np.linalg.norm(start)
    np.testing.assert_allclose(told[-1]["cosine"], [cosine], rtol=1e-5)  # float32
    assert cosine < 1 - 1e-4


def test_speed_is_that_of_the_updates_since_the_line_before(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A second passes in each update, and none while lines and checkpoints are written."""
    clock, update = SimpleNamespace(now=0.0), _Loop.update

    def timed(self: Any, *arguments: Any) -> None:
        clock.now += 1
        update(self, *arguments)

    monkeypatch.setattr(_Loop, "update", timed)
    monkeypatch.setattr(
        "mrti_jax.training.metrics.time", SimpleNamespace(perf_counter=lambda: clock.now)
    )
    config = make_config(
        train={"steps": 8, "batch_size": 4, "metrics_every": 2, "checkpoint_every": 4},
    )
    learn(tiny_sd, pictures, name="jane", initializer="red", out=tmp_path, config=config)
    assert [line["examples_per_second"] for line in read_metrics(tmp_path)] == [4.0] * 4


def test_speed_and_cosine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "mrti_jax.training.metrics.time", SimpleNamespace(perf_counter=lambda: 10.0)
    )
    start = tiny_concept(num_buckets=3).embeddings
    path = epath.Path(tmp_path / "metrics.jsonl")
    rates = np.full(100, 0.1, np.float32)
    metrics = Metrics(path, "jane", start, rates, batch_size=4, resumed_step=0)
    window = {"loss": np.float32([2, 0, 1]), "examples": np.int32([4, 0, 4])}
    turned = np.stack([2 * start[0], -start[1], start[2][:, ::-1]])
    metrics.write(1, 1, window, turned, now=8.0)
    metrics.start_clock(1)
    for step, now in ((2, 12.0), (5, 14.0)):
        metrics.write(step, step, window, turned, now)
    told = read_metrics(tmp_path)
    assert [line["examples_per_second"] for line in told] == [None, 2.0, 6.0]
    last = start[2].ravel()
    reversed_cosine = last @ last[::-1] / (last @ last)
    np.testing.assert_allclose(told[0]["cosine"], [1, -1, reversed_cosine], rtol=1e-5)  # float32
    assert told[0]["loss_per_bucket"] == [0.5, None, 0.25]
