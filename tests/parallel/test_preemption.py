# SPDX-License-Identifier: Apache-2.0
"""A run that is told to stop saves, exits with its own status, and resumes to the same end."""

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrti_jax import train
from mrti_jax.concept import Concept
from mrti_jax.errors import Preempted
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.preemption import StopRequest, stop_requests
from mrti_jax.training import learn, load_concept
from mrti_jax.training.run import Run

FLAGS = {"train.steps": 5, "train.batch-size": 4, "optimizer.schedule": "constant"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(
    number: signal.Signals,
    status: int,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def command(out: Path) -> list[str]:
        flags = FLAGS | {"model.path": tiny_folder, "data.path": "sample", "out": out}
        return [f"--{key}={value}" for key, value in flags.items()] + ["--train.no-final-grid"]

    reached, asked = StopRequest.reached, itertools.count(1)

    def signal_after_two(self: StopRequest) -> bool:
        if next(asked) == 2:
            os.kill(os.getpid(), number)
        return reached(self)

    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "reached", signal_after_two)
        assert train.main(command(tmp_path / "cut")) == status
    assert handlers == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    assert "stopped after 2 of 5 steps; run the same command again" in capsys.readouterr().err
    assert load_concept(tmp_path / "cut").metadata["steps"] == "2"

    assert train.main(command(tmp_path / "cut")) == 0
    assert train.main(command(tmp_path / "whole")) == 0
    cut, whole = Concept.load(tmp_path / "cut"), Concept.load(tmp_path / "whole")
    np.testing.assert_array_equal(cut.embeddings, whole.embeddings)
    assert cut.metadata["steps"] == "5"


@pytest.mark.filterwarnings("ignore:.*steps skip bucket", "ignore:.*had no training example")
def test_a_signal_in_the_last_pictures_leaves_them_to_the_next_start(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    values = FLAGS | {"model.path": tiny_folder, "out": tmp_path, "train.picture-steps": 2}
    command = [f"--{key}={value}" for key, value in values.items()]
    finish = Run.finish

    def signal_first(self: Run, *state: Any, **options: Any) -> Concept:
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(self, *state, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", signal_first)
        assert train.main(command) == 75
    assert Concept.load(tmp_path).metadata["steps"] == "5"
    assert not (tmp_path / "grid.png").exists()
    assert train.main(command) == 0
    assert "has already done its 5 steps" in capsys.readouterr().err
    assert (tmp_path / "grid.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*had no training example")
def test_pictures_that_a_signal_cut_off_are_drawn_by_the_next_start(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    values = FLAGS | {"train.picture-every": 2, "train.picture-steps": 4}
    values |= {"model.path": tiny_folder, "out": tmp_path}
    command = [f"--{key}={value}" for key, value in values.items()] + ["--train.no-final-grid"]
    draw = Run.draw

    def signal_first(self: Run, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        draw(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "draw", signal_first)
        assert train.main(command) == 75
    assert not (tmp_path / "pictures").exists()
    assert load_concept(tmp_path).metadata["steps"] == "2"
    assert train.main(command) == 0
    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == ["step_000002.png", "step_000004.png"]


def test_only_a_user_ends_the_saving_by_a_second_signal() -> None:
    with stop_requests("stopping") as stop:
        for _ in range(2):  # Google's notice, and the shutdown
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Preempted):
        stop.leave("stopped")


def test_a_user_is_told_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_requests("stopping") as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert "stopping" in capfd.readouterr().err
        assert stop.reached()


@pytest.mark.parametrize("in_folder", [True, False])
def test_what_is_kept_is_told(
    in_folder: bool,
    tiny_sd: StableDiffusion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    reached = StopRequest.reached

    def signal_first(self: StopRequest) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return reached(self)

    monkeypatch.setattr(StopRequest, "reached", signal_first)
    out = tmp_path / "out" if in_folder else None
    with pytest.raises(KeyboardInterrupt) as stopped:
        learn(tiny_sd, "sample", name="jane", initializer="star", out=out)
    told, error = capfd.readouterr().err, str(stopped.value)
    assert ("once the work so far is saved" in told) == in_folder
    assert ("run the same command again" in error) == in_folder
    assert ("nothing is kept" in error) == (not in_folder)
