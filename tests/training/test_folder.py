# SPDX-License-Identifier: Apache-2.0
"""Two runs in one output folder at once: the second is refused, and the first continues."""

import errno
import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from tiny import tiny_concept

from mrti_jax.concept import Concept
from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import learn
from mrti_jax.training.folder import held

HOLD = """
import sys, time
from etils import epath
from mrti_jax.training.folder import held
with held(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    out = epath.Path(tmp_path / "jane")
    command = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another run is at work in the folder"), held(out):
            pass
        process.kill()
    with held(out):
        assert [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.filterwarnings("ignore:.*had no training example")
def test_a_concept_without_its_checkpoints_is_not_overwritten(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    out, config = tmp_path / "out", make_config(train={"steps": 1, "final_grid": False})
    out.mkdir()
    tiny_concept("bob").save(out)
    words: dict[str, Any] = {"name": "jane", "initializer": "star", "out": out, "config": config}
    with pytest.raises(UserError, match=r"holds concept\.safetensors.*--out.*--restart"):
        learn(tiny_sd, pictures, **words)
    assert Concept.load(out).name == "bob"
    assert not (out / "config.yaml").exists()
    with pytest.warns(UserWarning, match="is now in"):
        learn(tiny_sd, pictures, **words, restart=True)
    assert (Concept.load(out).name, Concept.load(tmp_path / "out-1").name) == ("jane", "bob")


@pytest.mark.parametrize("name", ["config.yaml", "grid.png"])
def test_files_of_the_user_are_not_overwritten(
    name: str,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    (tmp_path / name).write_text("mine")
    words = {"name": "jane", "initializer": "star", "config": make_config()}
    with pytest.raises(UserError, match=f"holds {name}, but no checkpoint"):
        learn(tiny_sd, pictures, out=tmp_path, **words)
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_holds_no_run_is_not_moved(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no run that --restart could start over"):
        learn(tiny_sd, pictures, name="jane", initializer="star", out=tmp_path, restart=True)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("inside", [".", "rex", "a/rex"])
def test_results_in_the_photos_folder_are_refused(
    inside: str, photo_folder: Path, tiny_sd: StableDiffusion
) -> None:
    with pytest.raises(UserError, match=r"in the photos' folder.*--out"):
        learn(tiny_sd, photo_folder, name="rex", initializer="star", out=photo_folder / inside)
    assert not (photo_folder / "rex").exists()


def test_a_file_is_no_folder_for_results(photo_folder: Path, tiny_sd: StableDiffusion) -> None:
    out = photo_folder.parent / "a.yaml"
    out.write_text("mine")
    with pytest.raises(UserError, match=r"a\.yaml' is a file: name a folder with --out"):
        learn(tiny_sd, photo_folder, name="rex", initializer="star", out=out)
    out.unlink()


def test_photos_that_a_restart_would_move_away_are_refused(
    photo_folder: Path, tiny_sd: StableDiffusion
) -> None:
    out = photo_folder.parent
    with pytest.raises(UserError, match=r"--restart would move the photos .* away.*--out"):
        learn(tiny_sd, photo_folder, name="rex", initializer="star", out=out, restart=True)
    assert photo_folder.exists()


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_that_goes_on_is_neither_joined_nor_moved(
    restart: bool,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    with held(epath.Path(tmp_path)), pytest.raises(UserError, match="another run"):
        learn(
            tiny_sd,
            pictures,
            name="jane",
            initializer="star",
            out=tmp_path,
            config=make_config(),
            restart=restart,
        )
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_where_nothing_can_be_locked_a_warning_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match=r"can't be locked \(Function not implemented\)"),
        held(epath.Path(tmp_path)),
    ):
        pass
