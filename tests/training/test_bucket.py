# SPDX-License-Identifier: Apache-2.0
"""A run whose photos and results are in a bucket (`gs://`): stopped, and resumed."""

import itertools
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bucket import Bucket, buckets
from etils import epath

from mrti_jax.concept import Concept
from mrti_jax.errors import Preempted, UserError
from mrti_jax.files import append, list_folder, write_whole
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.preemption import StopRequest
from mrti_jax.training import learn, load_concept, read_config
from mrti_jax.training.folder import writable

WORDS = {"name": "jane", "initializer": "star"}


def test_a_run_in_a_bucket(
    tiny_sd: StableDiffusion, photo_folder: Path, make_config: Callable, monkeypatch
):
    config = make_config(concept={"num_buckets": 2}, train={"metrics_every": 1})
    local = learn(tiny_sd, photo_folder, **WORDS, config=config)
    opened, written = Bucket._open, []

    def record(self: Bucket, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode:
            written.append(path.rpartition("/")[2])
        return opened(self, path, mode, **options)

    with buckets(monkeypatch):
        monkeypatch.setattr(Bucket, "_open", record)
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
        own = read_config(out / "config.yaml")
        assert (own.concept.name, own.model.dtype) == ("jane", "float32")
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
        # At the stop, to cut it for going on, at the end: not for each of the lines.
        assert written.count("metrics.jsonl") == 3


def test_what_a_store_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch):
    class HttpError(Exception):
        """Like that of gcsfs, which is no OSError."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise HttpError("forbidden, 403")

    with buckets(monkeypatch):
        monkeypatch.setattr(Bucket, "_open", refuse)
        file = epath.Path("gs://mine/runs/metrics.jsonl")
        for write in (
            partial(write_whole, file, b""),
            partial(append, file, ""),
            partial(writable, file),
        ):
            with pytest.raises(UserError, match=r"can't write .*gs://mine/runs.*forbidden, 403"):
                write()
        monkeypatch.setattr(Bucket, "isdir", refuse)
        with pytest.raises(UserError, match=r"can't read the folder 'gs://mine/photos'.*403"):
            list_folder(epath.Path("gs://mine/photos"))
        with pytest.raises(UserError, match=r"can't read the concept file gs://mine/jane.*403"):
            Concept.load("gs://mine/jane")
