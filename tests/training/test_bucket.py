# SPDX-License-Identifier: Apache-2.0
"""A run whose photos and results are in a bucket (`gs://`): stopped, and resumed."""

import itertools
import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bucket import Bucket, buckets
from etils import epath
from PIL import Image

from mrti_jax import sample, train
from mrti_jax.concept import Concept
from mrti_jax.errors import Preempted, UserError
from mrti_jax.files import append, write_whole
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.preemption import StopRequest
from mrti_jax.sampling.png import png_bytes, save_new
from mrti_jax.training import learn, load_concept, read_config
from mrti_jax.training.folder import move_aside, writable

OWN = ["--concept.name", "rex", "--concept.initializer", "heart"]
WORDS = {"name": "jane", "initializer": "star"}


class HttpError(Exception):
    """Like that of gcsfs, which is no OSError."""


def refuse(*_: Any, **__: Any) -> Any:
    raise HttpError("forbidden, 403")


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

        with pytest.warns(UserWarning, match=r"is now in 'gs://mine/runs/jane-1'"):
            move_aside(out)
        assert not out.exists() and (out.with_name("jane-1") / "concept.safetensors").exists()


def test_pictures_in_a_bucket_are_numbered(monkeypatch: pytest.MonkeyPatch):
    picture = Image.new("RGB", (8, 8))
    with buckets(monkeypatch):
        for name in ("a.png", "a-2.png"):
            assert save_new(picture, "gs://mine/pictures", "a").name == name
            assert (epath.Path("gs://mine/pictures") / name).read_bytes() == png_bytes(picture)


def test_what_a_store_refuses_to_write_is_one_line(monkeypatch: pytest.MonkeyPatch):
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
        with pytest.raises(UserError, match=r"can't write gs://mine/pictures/a.png.*403"):
            save_new(Image.new("RGB", (8, 8)), "gs://mine/pictures", "a")


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (train.main, ["--data.path", "gs://mine/a", *OWN]),
        (train.main, ["--model.path", "gs://mine/a"]),
        (train.main, ["--out", "gs://mine/a"]),
        (sample.main, ["a star", "--model", "gs://mine/a"]),
        (sample.main, ["a star", "--concept", "gs://mine/a"]),
        (sample.main, ["a star", "--out", "gs://mine/a"]),
    ],
)
def test_a_bucket_that_can_not_be_read_is_one_line(
    main: Callable,
    argv: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with buckets(monkeypatch):
        for name in ("isdir", "exists", "ls", "info", "_open", "makedirs"):
            monkeypatch.setattr(Bucket, name, refuse)
        assert main(argv) == 2
    assert re.fullmatch(r"error: .*gs://mine/a.*: forbidden, 403\n", capsys.readouterr().err)
