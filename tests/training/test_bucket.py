# SPDX-License-Identifier: Apache-2.0
"""A run whose photos and results are in a bucket (`gs://`): stopped, and resumed."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bucket import buckets
from etils import epath

from mrti_jax.concept import Concept
from mrti_jax.errors import Preempted
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.preemption import StopRequest
from mrti_jax.training import learn, load_concept, read_config

WORDS = {"name": "jane", "initializer": "star"}


def test_a_run_in_a_bucket(
    tiny_sd: StableDiffusion, photo_folder: Path, make_config: Callable, monkeypatch
):
    config = make_config(concept={"num_buckets": 2}, train={"metrics_every": 1})
    local = learn(tiny_sd, photo_folder, **WORDS, config=config)
    with buckets(monkeypatch):
        photos, out = epath.Path("gs://mine/photos"), epath.Path("gs://mine/runs/jane")
        for photo in photo_folder.iterdir():
            (photos / photo.name).write_bytes(photo.read_bytes())

        reached, asked = StopRequest.reached, itertools.count(1)

        def signal_after_two(self: StopRequest) -> bool:
            if next(asked) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return reached(self)

        with monkeypatch.context() as patch:
            patch.setattr(StopRequest, "reached", signal_after_two)
            with pytest.raises(Preempted, match="after 2 of 4 steps"):
                learn(tiny_sd, photos, **WORDS, out=out, config=config)
        assert load_concept(out).metadata["steps"] == "2"

        learn(tiny_sd, photos, **WORDS, out=out, config=config)
        np.testing.assert_array_equal(Concept.load(out).embeddings, local.embeddings)
        assert read_config(out / "config.yaml").concept.name == "jane"
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
