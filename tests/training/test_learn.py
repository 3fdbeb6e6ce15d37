# SPDX-License-Identifier: Apache-2.0
"""Whole runs on a tiny model: what is trained, what is written, how a stopped run resumes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from metrics_file import read_metrics

from mrti_jax.concept import Concept, initial_vectors
from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import learn, load_concept, read_config
from mrti_jax.training.checkpoint import Checkpoints
from mrti_jax.training.config import ConceptConfig

WORDS = {"name": "jane", "initializer": "star"}
FEW_ROWS = {"num_buckets": 2}


def start_vectors(sd: StableDiffusion) -> np.ndarray:
    return initial_vectors("star", ConceptConfig.num_vectors, sd.tokenizers, sd.text_encoder)


def test_a_run_trains_the_table_alone_and_writes_what_it_should(
    tiny_sd: StableDiffusion, photo_folder: Path, make_config: Callable, tmp_path: Path
):
    before = jax.tree.map(np.array, tiny_sd.params)
    out = tmp_path / "out"
    config = make_config(concept=FEW_ROWS)
    concept = learn(tiny_sd, photo_folder, **WORDS, out=out, config=config)

    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, tiny_sd.params))
    start = start_vectors(tiny_sd)
    assert concept.embeddings.shape == (2, *start.shape)
    assert (concept.embeddings != start).any(axis=(1, 2)).all()
    assert concept.metadata["steps"] == "4" and concept.metadata["initializer"] == "star"

    with pytest.raises(UserError, match=f"give a training folder, or '{out / 'checkpoints'}'"):
        load_concept(next((out / "checkpoints").iterdir()))
    for again in (Concept.load(out), load_concept(out), load_concept(out / "checkpoints")):
        np.testing.assert_array_equal(again.embeddings, concept.embeddings)
        np.testing.assert_array_equal(again.boundaries, concept.boundaries)
        assert (again.name, again.metadata) == (concept.name, concept.metadata)
    written = read_config(out / "config.yaml")
    assert (written.concept.name, written.train) == ("jane", config.train)

    first, last = read_metrics(out)
    assert (first["step"], last["step"]) == (2, 4)
    assert sum(last["examples_per_bucket"]) == 8 and last["learning_rate"] == pytest.approx(1e-2)
    rows = concept.embeddings.reshape(2, -1)
    np.testing.assert_allclose(last["norm"], np.linalg.norm(rows, axis=1), rtol=1e-5)
    drift = np.linalg.norm(rows - start.ravel(), axis=1)
    np.testing.assert_allclose(last["drift"], drift, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:there is only one image")
def test_the_loss_falls_on_one_photo(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    config = make_config(
        concept={"num_buckets": 1},
        optimizer={"learning_rate": 5e-2},
        train={"steps": 80, "metrics_every": 40, "checkpoint_every": 80},
    )
    learn(tiny_sd, pictures[:1], **WORDS, out=tmp_path, config=config)
    first, last = (line["loss"] for line in read_metrics(tmp_path))
    assert last < first - 0.02  # the mean of 160 examples is good to about 0.008


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_bit(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    config = make_config(train={"steps": 7, "checkpoint_every": 3, "metrics_every": 2})
    whole = learn(tiny_sd, pictures, **WORDS, out=tmp_path / "whole", config=config)

    save = Checkpoints.save

    def save_and_crash(self, step, *arguments):
        save(self, step, *arguments)
        if step == 3:
            raise ConnectionError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_crash)
        with pytest.raises(ConnectionError):
            learn(tiny_sd, pictures, **WORDS, out=tmp_path / "cut", config=config)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 9}\n{"st')  # what a later crash may leave
    resumed = learn(tiny_sd, pictures, **WORDS, out=tmp_path / "cut", config=config)

    np.testing.assert_array_equal(resumed.embeddings, whole.embeddings)
    keep = ("step", "loss", "loss_per_bucket", "norm", "drift", "learning_rate")
    one, other = (
        [{key: line[key] for key in keep} for line in read_metrics(tmp_path / name)]
        for name in ("whole", "cut")
    )
    assert one == other and [line["step"] for line in one] == [2, 4, 6, 7]

    with pytest.warns(UserWarning, match="has already done its 7 steps"):
        again = learn(tiny_sd, pictures, **WORDS, out=tmp_path / "cut", config=config)
    np.testing.assert_array_equal(again.embeddings, whole.embeddings)

    other_seed = make_config(train={"steps": 7, "seed": 1})
    with pytest.raises(UserError, match=r"other settings: train\.seed \(0 -> 1\)"):
        learn(tiny_sd, pictures, **WORDS, out=tmp_path / "cut", config=other_seed)
    with pytest.raises(UserError, match="holds a run for <jane>, not <bob>: choose another --out"):
        learn(tiny_sd, pictures, **WORDS | {"name": "bob"}, out=tmp_path / "cut", config=config)
    with pytest.raises(UserError, match="holds a run with other photos; set them back"):
        learn(tiny_sd, pictures[:2], **WORDS, out=tmp_path / "cut", config=config)


@pytest.mark.slow
def test_a_row_without_an_example_is_a_loud_warning(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    config = make_config(train={"steps": 1}, optimizer={"sharing": 0.0})
    with pytest.warns(UserWarning, match=r"^rows .* had no training example") as caught:
        concept = learn(tiny_sd, pictures, **WORDS, config=config)
    start = start_vectors(tiny_sd)
    idle = np.flatnonzero((concept.embeddings == start).all(axis=(1, 2)))
    assert f"rows {', '.join(map(str, idle))} of <jane>" in str(caught[0].message)


@pytest.mark.filterwarnings("ignore:.*steps skip bucket")
def test_sheets_of_pictures(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    config = make_config(
        concept=FEW_ROWS,
        train={"picture_every": 2, "picture_steps": 2, "final_grid": True},
    )
    learn(tiny_sd, pictures, **WORDS, out=tmp_path, config=config)
    assert (tmp_path / "grid.png").stat().st_size > 1000
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["step_000002.png"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*steps skip bucket")
def test_a_model_without_a_sampler_of_ours_is_trained_and_drawn_with_another(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    config = tiny_sd.scheduler_config | {"_class_name": "UniPCMultistepScheduler"}
    sd = dataclasses.replace(tiny_sd, scheduler_config=config)
    made = make_config(concept=FEW_ROWS, train={"picture_steps": 2, "final_grid": True})
    with pytest.warns(
        UserWarning, match="drawn with ddim, not the model's own sampler.*UniPC"
    ) as told:
        learn(sd, pictures, **WORDS, out=tmp_path, config=made)
    assert len([one for one in told if "UniPC" in str(one.message)]) == 1
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "UniPCMultistepScheduler", "thresholding": True}, "thresholding is True"),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "zero signal"),
    ],
    ids=["option", "schedule"],
)
def test_pictures_that_no_sampler_can_draw_are_told_before_the_training(
    changes: dict,
    words: str,
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("mrti_jax.training.learning.train", lambda *_, **__: pytest.fail("trained"))
    config = tiny_sd.scheduler_config | {"_class_name": "DDIMScheduler"} | changes
    sd = dataclasses.replace(tiny_sd, scheduler_config=config)
    made = make_config(train={"picture_steps": 2, "final_grid": True})
    with pytest.raises(UserError, match=f"can't be drawn .*ddim: .*{words}.*train.final_grid"):
        learn(sd, pictures, **WORDS, out=tmp_path, config=made)


def test_empty_places_of_a_batch_are_told(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    monkeypatch: pytest.MonkeyPatch,
):
    ended = UserError("ended before the training")
    monkeypatch.setattr("mrti_jax.training.learning.train", lambda *_, **__: [ended])
    config = make_config(train={"batch_size": 6, "accumulation": 2})
    message = r"1 of 4 places stay empty .* --train\.batch-size 8 would"
    with pytest.warns(UserWarning, match=message), pytest.raises(UserError, match="ended before"):
        learn(tiny_sd, pictures, **WORDS, config=config)


@pytest.mark.parametrize(
    ("words", "section", "values", "message"),
    [
        ({"initializer": "striped star"}, "train", {}, "is 2 tokens"),
        ({"name": "a b"}, "train", {}, "can't name a concept"),
        ({}, "data", {"size": 15}, r"data\.size 15 is not a multiple of 2"),
        ({}, "concept", {"num_vectors": 80}, "does not fit"),
        ({}, "data", {"captions": True}, "only folders of images have them"),
    ],
)
def test_bad_input_is_told_before_any_work(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    words: dict,
    section: str,
    values: dict,
    message: str,
):
    with pytest.raises(UserError, match=message):
        learn(tiny_sd, pictures, **(WORDS | words), config=make_config(**{section: values}))


def test_an_unwritable_folder(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable, tmp_path: Path
):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write to the folder"):
        learn(tiny_sd, pictures, **WORDS, out=tmp_path / "file" / "out", config=make_config())
