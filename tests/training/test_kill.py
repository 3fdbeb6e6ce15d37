# SPDX-License-Identifier: Apache-2.0
"""A training process is killed (SIGKILL) at 20 random moments, and loses nothing."""

import collections
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from metrics_file import without_speed

from mrti_jax import train
from mrti_jax.concept import Concept
from mrti_jax.training import load_concept, read_config

KILLS = 20
# What the process is doing when it is killed.
MOMENTS = ("stepping", "saving a checkpoint", "starting or any", "writing the concept file")
SETTINGS = {
    "concept.name": "jane",
    "concept.initializer": "star",
    "concept.num-buckets": "3",
    "train.steps": "120",
    "train.batch-size": "2",
    "train.checkpoint-every": "3",
    "train.metrics-every": "2",
}
PATIENCE = 300  # seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseContext]:
    """Starts processes that have imported everything but run nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mrti_jax.train", "mrti_jax.training.learning"])
    with pytest.MonkeyPatch.context() as patch:
        # Their own: a kill may leave half a program in it, which jax warns of.
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield context


def start(server: BaseContext, out: Path, model: Path, photos: Path) -> BaseProcess:
    """The training command in a process of its own."""
    settings = SETTINGS | {"model.path": model, "data.path": photos, "out": out}
    flags = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    process = server.Process(target=train.main, args=([*flags, "--train.no-final-grid"],))
    process.start()
    return process


def wait_for(process: BaseProcess, condition: Callable[[], bool], seconds: float) -> None:
    """Waits until the condition holds, the process ends, or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.is_alive() and not condition():
        time.sleep(0.0002)


def checkpoints(out: Path) -> set[str]:
    folder = out / "checkpoints"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def kill(process: BaseProcess, out: Path, moment: str, rng: random.Random) -> bool:
    """Kills the process at a moment of that kind; False if it had ended by itself."""
    if moment == "starting or any":
        wait_for(process, lambda: False, rng.uniform(0, 15))
    else:
        before = checkpoints(out)
        wait_for(process, lambda: bool(checkpoints(out) - before), PATIENCE)
        match moment:
            case "stepping":
                wait_for(process, lambda: False, rng.uniform(0, 1))
            case "saving a checkpoint":
                saving = lambda: any("tmp" in name for name in checkpoints(out))  # noqa: E731
                wait_for(process, saving, PATIENCE)
                wait_for(process, lambda: False, rng.uniform(0, 0.05))
            case "writing the concept file":
                beside = out / ".concept.safetensors.tmp"
                wait_for(process, beside.exists, 5)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def check_what_is_left(out: Path) -> None:
    """Whatever a reader would open is whole."""
    if (out / "concept.safetensors").exists():
        Concept.load(out)
    if (out / "config.yaml").exists():
        read_config(out / "config.yaml")
    if any(name.isdigit() for name in checkpoints(out)):
        load_concept(out)


@pytest.mark.long
def test_twenty_kills_change_nothing(
    server: BaseContext, tiny_folder: Path, photo_folder: Path, tmp_path: Path
):
    whole = tmp_path / "whole"
    process = start(server, whole, tiny_folder, photo_folder)
    process.join()
    steps = [line["step"] for line in without_speed(whole)]
    assert steps == list(range(2, int(SETTINGS["train.steps"]) + 1, 2))

    def check_end(out: Path) -> None:
        expected = (whole / "concept.safetensors").read_bytes()
        assert (out / "concept.safetensors").read_bytes() == expected
        np.testing.assert_array_equal(load_concept(out).embeddings, Concept.load(out).embeddings)
        assert without_speed(out) == without_speed(whole)
        assert not [name for name in checkpoints(out) if not name.isdigit()]

    rng = random.Random(0)
    killed: collections.Counter[str] = collections.Counter()
    out, runs, starts = tmp_path / "cut", 1, 0
    while killed.total() < KILLS:
        starts += 1
        process = start(server, out, tiny_folder, photo_folder)
        moment = MOMENTS[starts % len(MOMENTS)]
        if kill(process, out, moment, rng):
            killed[moment] += 1
            check_what_is_left(out)
        else:  # it ended before that: another run
            check_end(out)
            shutil.rmtree(out)
            runs += 1
    process = start(server, out, tiny_folder, photo_folder)
    process.join()
    check_end(out)
    print(f"{killed.total()} kills in {runs} runs: {dict(killed)}")
