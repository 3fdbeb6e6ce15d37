# SPDX-License-Identifier: Apache-2.0
"""Many concepts at once: each is what it would be alone, in a folder of its own, come what may."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from metrics_file import without_speed
from PIL import Image

from mrti_jax import train
from mrti_jax.concept import Concept, initial_vectors
from mrti_jax.errors import Preempted, UserError
from mrti_jax.files import append
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.preemption import StopRequest
from mrti_jax.training import Subject, learn, learn_many, load_concept, read_config, run
from mrti_jax.training.checkpoint import Checkpoints
from mrti_jax.training.config import ConceptConfig, Config, DataConfig
from mrti_jax.training.many import resolve_all
from mrti_jax.training.step import initial_state

# Larger than Adam's usual, which enlarges the rounding of elements whose gradient is near zero.
EPS = 1e-6
# In two slots: the third one waits for a free one.
TRAIN = {"steps": 4, "batch_size": 4, "checkpoint_every": 3, "metrics_every": 2, "at_once": 2}
KINDS = {"jane": ("star", "object", 3), "rex": ("heart", "style", 2), "tim": ("red", "object", 4)}


def subjects(pictures: list[np.ndarray], out: Path | None = None) -> list[Subject]:
    """Three that differ in all that may differ, even in how many photos and captions they have."""
    four = [*pictures, pictures[0][::-1]]
    return [
        Subject(
            images=four[:number],
            name=name,
            initializer=initializer,
            learnable_property=learnable_property,  # type: ignore[arg-type]
            out=None if out is None else out / name,
        )
        for name, (initializer, learnable_property, number) in KINDS.items()
    ]


@pytest.fixture(scope="module")
def config(make_config: Callable) -> Any:
    return make_config(concept={"num_buckets": 2}, train=TRAIN, optimizer={"eps": EPS})


@pytest.fixture(scope="module")
def together(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    config: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a run of all three."""
    out = tmp_path_factory.mktemp("together")
    learn_many(tiny_sd, subjects(pictures, out), config=config)
    return out


@pytest.mark.parametrize(
    "name",
    [
        "jane",
        pytest.param("rex", marks=pytest.mark.long),
        pytest.param("tim", marks=pytest.mark.long),
    ],
)
def test_each_is_what_it_would_be_alone(
    name: str,
    together: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    tmp_path: Path,
):
    out = together / name
    many = Concept.load(out)
    (subject,) = (subject for subject in subjects(pictures) if subject.name == name)
    own = read_config(out / "config.yaml")
    assert (own.concept.name, own.concept.initializer) == (name, subject.initializer)
    assert own.data.learnable_property == subject.learnable_property
    one = learn(
        tiny_sd,
        subject.images,
        name=name,
        initializer=subject.initializer,
        out=tmp_path,
        config=own,
    )
    # float32 rounding in products of other sizes.
    np.testing.assert_allclose(many.embeddings, one.embeddings, rtol=0, atol=2e-5)
    assert (many.name, many.metadata) == (one.name, one.metadata)
    np.testing.assert_array_equal(load_concept(out).embeddings, many.embeddings)
    for line, alone in zip(without_speed(out), without_speed(tmp_path), strict=True):
        assert line["examples_per_bucket"] == alone["examples_per_bucket"]
        assert line["loss"] == pytest.approx(alone["loss"], rel=1e-4)


@pytest.mark.long
def test_slots_that_devices_share_change_nothing_but_rounding(
    together: Path, tiny_sd: StableDiffusion, pictures: list[np.ndarray], config: Any
):
    three = replace(config, train=replace(config.train, at_once=3))  # on two devices
    for concept in learn_many(tiny_sd, subjects(pictures), config=three):
        assert isinstance(concept, Concept)
        whole = Concept.load(together / concept.name)
        np.testing.assert_allclose(concept.embeddings, whole.embeddings, rtol=0, atol=2e-5)


def test_a_run_that_was_cut_goes_on_to_the_bit(
    together: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Each from its own checkpoint, so that the slots are at different updates."""
    save = Checkpoints.save

    def save_and_crash(self: Checkpoints, step: int, *arguments: Any) -> None:
        save(self, step, *arguments)
        if self.folder.parent.name == "rex":
            raise ConnectionError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_crash)
        with pytest.raises(ConnectionError):
            learn_many(tiny_sd, subjects(pictures, tmp_path), config=config)
    shutil.rmtree(tmp_path / "rex" / "checkpoints")
    assert load_concept(tmp_path / "jane").metadata["steps"] == "3"
    assert not (tmp_path / "tim" / "checkpoints").exists()

    learn_many(tiny_sd, subjects(pictures, tmp_path), config=config)
    for name in KINDS:
        whole, cut = together / name, tmp_path / name
        np.testing.assert_array_equal(Concept.load(cut).embeddings, Concept.load(whole).embeddings)
        assert without_speed(cut) == without_speed(whole)


def test_a_fault_of_one_is_told_and_the_others_go_on(
    together: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def infinite_for_heart(table: np.ndarray, *arguments: Any) -> Any:
        state = initial_state(table, *arguments)
        if (table == heart).all():
            state["optimizer"] = jax.tree.map(
                lambda x: np.full_like(x, np.inf) if x.dtype == np.float32 else x,
                state["optimizer"],
            )
        return state

    models = tiny_sd.tokenizers, tiny_sd.text_encoder
    heart = initial_vectors("heart", ConceptConfig.num_vectors, *models)
    monkeypatch.setattr(run, "initial_state", infinite_for_heart)
    with pytest.warns(
        UserWarning, match=r"<rex>: .* not finite at step 1.*the other concepts continue"
    ):
        jane, rex, tim = learn_many(tiny_sd, subjects(pictures, tmp_path), config=config)
    assert isinstance(rex, UserError) and "\n" not in str(rex) and "bucket" in str(rex)
    assert Concept.load(tmp_path / "rex").metadata["steps"] == "0"
    for concept in (jane, tim):
        assert isinstance(concept, Concept)
        whole = Concept.load(together / concept.name)
        np.testing.assert_array_equal(concept.embeddings, whole.embeddings)


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl", "pictures/step_000002.png"])
def test_a_folder_that_one_can_not_write_to_ends_that_one_alone(
    file: str,
    together: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    config: Any,
    tmp_path: Path,
):
    (tmp_path / "rex" / file).mkdir(parents=True)
    train = replace(config.train, picture_every=2, picture_steps=4)
    config = replace(config, train=train)
    with pytest.warns(UserWarning, match=rf"<rex>: can't .*{file}.*the other concepts continue"):
        jane, rex, tim = learn_many(tiny_sd, subjects(pictures, tmp_path), config=config)
    assert isinstance(rex, UserError) and "\n" not in str(rex)
    for concept in (jane, tim):
        assert isinstance(concept, Concept)
        whole = Concept.load(together / concept.name)
        np.testing.assert_array_equal(concept.embeddings, whole.embeddings)


def test_a_line_of_metrics_that_can_not_be_written_ends_that_one_after_its_checkpoint(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def but_for_rex(path: Any, text: str) -> None:
        if path.parent.name == "rex":
            raise UserError(f"can't write {path}: the disk is full")
        append(path, text)

    monkeypatch.setattr("mrti_jax.training.metrics.append", but_for_rex)
    with pytest.warns(UserWarning, match=r"<rex>: can't write .*the disk is full"):
        jane, rex, tim = learn_many(tiny_sd, subjects(pictures, tmp_path), config=config)
    assert isinstance(jane, Concept) and isinstance(rex, UserError) and isinstance(tim, Concept)
    assert load_concept(tmp_path / "rex").metadata["steps"] == str(TRAIN["checkpoint_every"])
    assert len(without_speed(tmp_path / "tim")) == 2


@pytest.mark.filterwarnings("ignore:.*had no training example")
def test_a_restart_that_is_stopped_leaves_nothing_for_the_next_one_to_move(
    together: Path,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    out = tmp_path / "out"
    shutil.copytree(together, out)
    monkeypatch.setattr(StopRequest, "reached", lambda self: True)
    with pytest.warns(UserWarning, match="is now in"), pytest.raises(Preempted, match="after 2 of"):
        learn_many(tiny_sd, subjects(pictures, out), config=config, restart=True)
    for name in KINDS:  # the third one still waits
        assert Concept.load(out / f"{name}-1").metadata["steps"] == str(TRAIN["steps"])
    assert load_concept(out / "jane").metadata["steps"] == "1"
    assert not (out / "tim").exists()


@pytest.fixture
def folders(tmp_path: Path, pictures: list[np.ndarray]) -> Path:
    """A folder of folders."""
    root = tmp_path / "photos"
    for subject in subjects(pictures):
        folder = root / subject.name
        folder.mkdir(parents=True)
        for index, picture in enumerate(subject.images):  # type: ignore[arg-type]
            Image.fromarray(picture).save(folder / f"{index}.png")
        (folder / "concept.yaml").write_text(
            f"initializer: {subject.initializer}\n"
            f"learnable_property: {subject.learnable_property}\n"
        )
    return root


def test_pictures_beside_folders_are_no_guess(folders: Path) -> None:
    (folders / "Thumbs.db").write_text("of a file manager")
    assert len(resolve_all(Config(data=DataConfig(path=str(folders))))) == len(
        list(folders.glob("*/"))
    )
    (folders / "loose.HEIC").write_bytes(b"a photo")
    with pytest.raises(UserError, match=r"holds pictures \(loose\.HEIC\) and folders"):
        resolve_all(Config(data=DataConfig(path=str(folders))))


@pytest.mark.parametrize("of_one", [True, False])
def test_captions_of_one_are_of_that_one_alone(of_one: bool, folders: Path) -> None:
    with (folders / "rex" / "concept.yaml").open("a") as file:
        file.write(f"captions: {str(of_one).lower()}\n")
    runs = resolve_all(Config(data=DataConfig(path=str(folders), captions=not of_one)))
    told = {run.concept.name: run.data.captions for run in runs}
    assert told == {"jane": not of_one, "rex": of_one, "tim": not of_one}


def command(model: Path, path: Path | str, out: Path, **more: Any) -> list[str]:
    settings = {f"train.{key.replace('_', '-')}": value for key, value in TRAIN.items()}
    settings |= {"model.path": model, "data.path": path, "out": out}
    settings |= {"optimizer.schedule": "constant", "optimizer.warmup-steps": 0}
    settings |= {"optimizer.learning-rate": 1e-2, "optimizer.eps": EPS, "concept.num-buckets": 2}
    settings |= more
    return [*(f"--{key}={value}" for key, value in settings.items()), "--train.no-final-grid"]


@pytest.mark.filterwarnings("ignore:the run in", "ignore:.*start over")
def test_the_command(together: Path, tiny_folder: Path, folders: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "out"
    assert train.main(command(tiny_folder, folders, out)) == 0
    printed = capsys.readouterr().out
    for name in KINDS:
        assert f"learned <{name}>: {out / name / 'concept.safetensors'}" in printed
        whole = Concept.load(together / name)
        np.testing.assert_array_equal(Concept.load(out / name).embeddings, whole.embeddings)

    # One that can't continue: the others are done already, and the status says so.
    Image.open(folders / "rex" / "0.png").rotate(90).save(folders / "rex" / "0.png")
    assert train.main(command(tiny_folder, folders, out)) == 2
    told = capsys.readouterr()
    assert "learned <jane>" in told.out and "learned <rex>" not in told.out
    assert "error: <rex>: the folder" in told.err and "with other photos" in told.err

    assert train.main(command(tiny_folder, folders, out, **{"train.seed": 1})) == 2
    told = capsys.readouterr()
    assert "error: 3 of 3 concepts were not learned" in told.err
    assert told.err.count("train.seed (0 -> 1)") == 3


def listed(folders: Path) -> str:
    """The same concepts, in a list; one of them from another folder, and not named after it."""
    shutil.move(folders / "tim", folders.parent / "elsewhere")
    places = {"tim": "elsewhere"}
    lines = ["concepts:"]
    for name, (initializer, learnable_property, _) in KINDS.items():
        lines += [
            f"  - path: {folders.parent / places[name] if name in places else folders / name}",
            f"    initializer: {initializer}",
            f"    learnable_property: {learnable_property}",
            *([f"    name: {name}"] if name in places else []),
        ]
    return "\n".join(lines)


def test_a_list_of_concepts(together: Path, tiny_folder: Path, folders: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(listed(folders))
    out = tmp_path / "out"
    assert train.main([*command(tiny_folder, "sample", out), str(recipe)]) == 0
    for name in KINDS:
        whole = Concept.load(together / name)
        np.testing.assert_array_equal(Concept.load(out / name).embeddings, whole.embeddings)


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ("concepts: 3", {}, "'concepts' is 3, but must be a list"),
        ("concepts: [3]", {}, "'concepts[0]' is 3, but must hold keys"),
        ("concepts:\n- {path: a, size: 3}", {}, "unknown key 'size' in 'concepts[0]'"),
        ("concepts:\n- {path: a, captions: 3}", {}, "'concepts[0].captions' is 3, but must"),
        ("concepts:\n- name: rex\n  initializer: star", {}, "concepts[0] has no path"),
        ("concepts:\n- path: a/rex", {}, "<rex> has no word to start from"),
        ("concepts:\n- path: a/rex", {"data.path": "b"}, "and data.path 'b': leave out one"),
    ],
)
def test_bad_lists(
    recipe: str, flags: dict[str, str], message: str, tiny_folder: Path, tmp_path: Path, capsys: Any
):
    (tmp_path / "recipe.yaml").write_text(recipe)
    given = command(tiny_folder, "sample", tmp_path / "out", **flags)
    assert train.main([*given, str(tmp_path / "recipe.yaml")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("yaml", "flags", "message"),
    [
        ("name: a b", {}, "<a b>: 'a b' can't name a concept"),
        ("name: tim", {}, "each concept needs a name of its own"),
        ("initializer: a b", {}, "<rex>: the initializer 'a b' is 2 tokens"),
        ("initialiser: heart", {}, "unknown key 'initialiser'"),
        ("{}", {}, "<rex> has no word to start from"),
        ("{}", {"concept.name": "rex"}, "holds concepts with names of their own"),
    ],
)
def test_bad_input_is_told_before_any_work(
    yaml: str, flags: dict[str, str], message: str, tiny_folder: Path, folders: Path, capsys: Any
):
    given = "" if yaml.startswith("{") or "initiali" in yaml else "initializer: heart\n"
    (folders / "rex" / "concept.yaml").write_text(given + yaml)
    out = folders.parent / "out"
    assert train.main(command(tiny_folder, folders, out, **flags)) == 2
    assert message in capsys.readouterr().err
    assert not list(out.glob("*/checkpoints"))
