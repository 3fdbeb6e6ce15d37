# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with a run: damaged checkpoints, NaN or infinity, kills after the end."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils
from tiny import tiny_concept

from mrti_jax.concept import Concept
from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import learn, load_concept
from mrti_jax.training.checkpoint import Checkpoints
from mrti_jax.training.config import Config, flatten
from mrti_jax.training.settings import check_resumable

WORDS = {"name": "jane", "initializer": "star"}
TRAIN = {"steps": 4, "checkpoint_every": 2, "keep": 5}
# Settings that don't touch the result.
FREE = {"out", "data.path", "data.tfds_dir", "model.fsdp", "model.attention"} | {
    f"train.{name}"
    for name in (
        *("accumulation", "at_once", "remat"),
        *("checkpoint_every", "keep", "metrics_every"),
        *("picture_every", "picture_steps", "picture_guidance", "picture_guidance_interval"),
        "final_grid",
    )
}


def config_of(make_config: Callable, **sections: dict[str, Any]) -> Any:
    return make_config(
        concept={"num_buckets": 2}, train=TRAIN | sections.pop("train", {}), **sections
    )


@pytest.fixture(scope="module")
def run(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of 4 updates with checkpoints at 2 and 4."""
    out = tmp_path_factory.mktemp("run") / "jane"
    learn(tiny_sd, pictures, **WORDS, out=out, config=config_of(make_config))
    return out


def steps_and_tables(run: Path) -> Iterator[tuple[str, np.ndarray]]:
    for step in ("2", "4"):
        concept = json.loads((run / "metrics.jsonl").read_text().splitlines()[int(step) // 2 - 1])
        yield step, concept["norm"]


def damage(path: Path) -> None:
    """Flips one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.filterwarnings("ignore:(using )?the checkpoint")
def test_a_concept_is_never_read_from_a_damaged_checkpoint(run: Path, tmp_path: Path):
    norms = dict(steps_and_tables(run))
    files_of_newest = [path for path in (run / "checkpoints" / "4").rglob("*") if path.is_file()]
    used = set()
    for number, path in enumerate(files_of_newest):
        copy = tmp_path / str(number)
        copytree(run, copy)
        damage(copy / path.relative_to(run))
        concept = load_concept(copy)
        step = concept.metadata["steps"]
        np.testing.assert_allclose(
            np.linalg.norm(concept.embeddings, axis=(1, 2)), norms[step], rtol=1e-5
        )
        used.add(step)
    assert used == {"2", "4"}  # some files, such as those of the state, it does without


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    run: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    tmp_path: Path,
):
    out = tmp_path / "jane"
    copytree(run, out)
    newest = out / "checkpoints" / "4"
    for path in (newest / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":  # the numbers
            damage(path)
    with pytest.warns(UserWarning, match=r"checkpoints/4 is damaged|checkpoints/2") as caught:
        learn(tiny_sd, pictures, **WORDS, out=out, config=config_of(make_config))
    assert sum(warning.category is UserWarning for warning in caught) == 2
    assert (out / "concept.safetensors").read_bytes() == (run / "concept.safetensors").read_bytes()
    assert sorted(path.name for path in newest.parent.iterdir()) == ["2", "4", "damaged-4"]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]

    for step in ("2", "4"):
        damage(out / "checkpoints" / step / "meta" / "metadata")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(UserError, match=r"none of the checkpoints.*--restart"),
    ):
        learn(tiny_sd, pictures, **WORDS, out=out, config=config_of(make_config))


@pytest.mark.slow
def test_restart_keeps_the_run_before(
    run: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    tmp_path: Path,
):
    out = tmp_path / "jane"
    copytree(run, out)
    other = config_of(make_config, train={"seed": 1, "timesteps": "uniform"})
    with pytest.raises(
        UserError, match=r"train\.timesteps \(stratified -> uniform\), train\.seed \(0 -> 1\)"
    ):
        learn(tiny_sd, pictures, **WORDS, out=out, config=other)
    with pytest.warns(UserWarning, match=r"is now in '.*jane-1'"):
        learn(tiny_sd, pictures, **WORDS, out=out, config=other, restart=True)
    assert (out.with_name("jane-1") / "concept.safetensors").read_bytes() == (
        run / "concept.safetensors"
    ).read_bytes()
    assert Concept.load(out).metadata["seed"] == "1"


@pytest.mark.filterwarnings("ignore:the run in", "ignore:.*steps skip bucket")
def test_what_a_kill_after_the_last_checkpoint_left_out(
    run: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    tmp_path: Path,
):
    out = tmp_path / "jane"
    copytree(run, out)
    whole = (out / "concept.safetensors").read_bytes()
    old = Concept.load(out)
    Concept(old.name, old.embeddings + 1, old.boundaries, old.metadata).save(out)
    config = config_of(make_config, train={"final_grid": True, "picture_steps": 2})
    learn(tiny_sd, pictures, **WORDS, out=out, config=config)
    assert (out / "concept.safetensors").read_bytes() == whole
    assert (out / "grid.png").stat().st_size > 1000


def test_an_update_that_is_not_finite_stops_the_run_with_the_table_before_it(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    config = config_of(
        make_config, optimizer={"learning_rate": 1.5e38}, train={"metrics_every": 3, "steps": 9}
    )
    with pytest.raises(
        UserError,
        match=r"not finite at step 2, bucket \d \(image image \d.*saved in .*--optimizer.learning",
    ) as caught:
        learn(tiny_sd, pictures, **WORDS, out=tmp_path, config=config)
    assert "\n" not in str(caught.value)
    concept = Concept.load(tmp_path)  # refuses what is not finite
    assert concept.metadata["steps"] == "1"
    assert not (tmp_path / "metrics.jsonl").exists()


def test_figures_that_are_probably_a_mistake_are_told(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    config = config_of(make_config, optimizer={"learning_rate": 30.0})
    with pytest.warns(UserWarning, match="distinct|the norm of row") as caught:
        learn(tiny_sd, pictures[:1] * 3, **WORDS, config=config)
    told = [str(warning.message) for warning in caught]
    assert any("only 1 of the 3 images are distinct" in text for text in told)
    (growth,) = [text for text in told if "the norm of row" in text]
    assert "times that of the initializer" in growth and "lower --optimizer" in growth


def test_checkpoints_leave_the_agreement_on_a_step_to_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    with Checkpoints(epath.Path(tmp_path), "jane", keep=1) as checkpoints:
        checkpoints.save(1, {"table": jnp.zeros(3)}, tiny_concept("jane"), {})
    assert not asked


def is_resumed(now: dict[str, Any], before: dict[str, Any], done: int) -> bool:
    try:
        check_resumable(now, epath.Path("run"), before, done)
    except UserError:
        return False
    return True


def test_only_what_does_not_touch_the_result_may_change(make_config: Callable):
    settings = flatten(config_of(make_config)) | {"photos": "ab", "captions": "cd"}
    free = {key for key in settings if is_resumed(settings, settings | {key: "another"}, done=4)}
    assert free == FREE | {"train.steps"}


@pytest.mark.parametrize(
    ("schedule", "steps", "resumed"),
    [
        ("constant", 6, True),
        ("constant", 5, True),
        ("constant", 4, False),
        ("cosine", 10, False),
        ("linear", 10, False),
    ],
)
def test_only_a_constant_learning_rate_allows_other_steps(schedule: str, steps: int, resumed: bool):
    before = flatten(Config()) | {"optimizer.schedule": schedule, "train.steps": 8}
    assert is_resumed(before | {"train.steps": steps}, before, done=5) == resumed


def test_a_run_goes_on_for_longer_from_moved_photos(
    run: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    photo_folder: Path,
    make_config: Callable,
    tmp_path: Path,
):
    out = tmp_path / "jane"
    copytree(run, out)
    longer = config_of(make_config, train={"steps": 6, "checkpoint_every": 5, "at_once": 1})
    resumed = learn(tiny_sd, photo_folder, **WORDS, out=out, config=longer)
    whole = learn(tiny_sd, pictures, **WORDS, config=longer)
    np.testing.assert_array_equal(resumed.embeddings, whole.embeddings)
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_only_the_newest_checkpoints_are_kept(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    config = config_of(make_config, train={"keep": 1})
    learn(tiny_sd, pictures, **WORDS, out=tmp_path, config=config)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]
