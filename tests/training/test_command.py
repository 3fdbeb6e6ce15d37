# SPDX-License-Identifier: Apache-2.0
"""`python -m mrti_jax.train`: recipes and flags, exit status 2 for bad input."""

import shlex
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_concept

from mrti_jax import sample, train
from mrti_jax.concept import Concept
from mrti_jax.flags import read_flags
from mrti_jax.training import read_config

RECIPES = Path(__file__).parents[2] / "configs"
SHORT = ["--train.steps", "2", "--train.batch-size", "4", "--optimizer.schedule", "constant"]


@pytest.fixture
def arguments(tiny_folder: Path, photo_folder: Path, tmp_path: Path) -> list[str]:
    given = {"model.path": tiny_folder, "data.path": photo_folder, "out": tmp_path / "out"}
    given |= {"concept.name": "rex", "concept.initializer": "heart"}
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("sd15", "tiny_folder"),
        ("sd21", "tiny_v_folder"),
        pytest.param("sdxl", "tiny_xl_folder", marks=pytest.mark.slow),
    ],
)
def test_the_recipes_run(
    recipe: str, model: str, arguments: list[str], tmp_path: Path, request: pytest.FixtureRequest
):
    """On tiny models of the same kind; 8 examples, so that XL's four parts divide over devices."""
    less = ["--data.size", "16", "--train.steps", "2", "--train.batch-size", "8"]
    less += ["--train.no-final-grid", "--model.path", str(request.getfixturevalue(model))]
    assert train.main([str(RECIPES / f"{recipe}.yaml"), *arguments, *less]) == 0
    concept = Concept.load(tmp_path / "out")
    names = [name for name, _ in concept.parts]
    assert names == (["clip_l", "clip_g"] if recipe == "sdxl" else [""])
    assert concept.metadata["steps"] == "2"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_recipe_and_flags_over_it(arguments: list[str], tmp_path: Path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "concept:\n  num_buckets: 2\ntrain:\n  steps: 99\n  seed: 5\n  final_grid: false\n"
    )
    assert train.main([str(recipe), *arguments, *SHORT]) == 0
    concept = Concept.load(tmp_path / "out")
    assert (concept.name, concept.num_buckets) == ("rex", 2)
    written = read_config(tmp_path / "out" / "config.yaml")
    assert (written.train.steps, written.train.seed) == (2, 5)
    assert "learned <rex>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [("object", "a photo of a <rex>"), ("style", "a painting in the style of <rex>")],
)
def test_the_line_that_draws_it(
    kind: str,
    prompt: str,
    arguments: list[str],
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(
        "mrti_jax.training.learning.learn_many", lambda *_, **__: [tiny_concept("rex")]
    )
    given = {"out": tmp_path / "it's rex", "data.learnable-property": kind}
    given |= {"model.prediction-type": "v_prediction", "model.tokenizer": tiny_folder / "tokenizer"}
    assert train.main([*arguments, *(f"--{key}={value}" for key, value in given.items())]) == 0
    program, _, line = capsys.readouterr().out.splitlines()[-1].partition(" mrti_jax.sample ")
    assert program == "draw it: python -m"
    flags = read_flags(sample.Flags, shlex.split(line))
    assert flags.prompts == (prompt,)
    assert flags.concept == (str(tmp_path / "it's rex"),)
    assert flags.model == str(tiny_folder)
    assert flags.source.prediction_type == "v_prediction"
    assert flags.source.tokenizer == str(tiny_folder / "tokenizer")


def test_bad_input_is_one_line_and_status_2(arguments: list[str], tmp_path: Path, capsys):
    empty, broken, wrong = tmp_path / "empty", tmp_path / "broken", tmp_path / "wrong.yaml"
    empty.mkdir()
    broken.mkdir()
    Image.new("RGB", (64, 64)).save(broken / "a.jpg")
    (broken / "a.jpg").write_bytes((broken / "a.jpg").read_bytes()[:300])
    wrong.write_text("train:\n  stepz: 3")
    cases = {
        ("--data.path", str(tmp_path / "nowhere")): "there is no folder of images",
        ("--data.path", str(empty)): "holds no images",
        ("--data.path", str(broken)): "none of them can be read: a.jpg",
        ("--data.path", "tfds:nothing_of_this_name/train"): "there is no data set",
        ("--concept.initializer", "striped star"): "is 2 tokens",
        ("--concept.name", "no good"): "can't name a concept",
        ("--data.size", "17"): "not a multiple",
        ("--model.path", str(tmp_path / "nowhere")): "does not exist",
        ("--train.batch-size", "0"): "train.batch_size is 0",
        (str(wrong),): "unknown key 'stepz'",
        (str(tmp_path / "no.yaml"),): "there is no configuration file",
    }
    for flags, message in cases.items():
        assert train.main([*arguments, *flags]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and message in error, flags
        assert "\n" not in error


def test_photos_and_name_are_checked_before_a_model_is_fetched(photo_folder: Path, capsys):
    words = ["--concept.initializer", "dog", "--model.path", "no-such/model"]
    for photos, name, message in [
        (photo_folder / "none", "rex", "there is no folder of images"),
        (photo_folder, "a b", "can't name a concept"),
    ]:
        assert train.main(["--data.path", str(photos), "--concept.name", name, *words]) == 2
        assert message in capsys.readouterr().err


def test_a_concept_file_beside_the_photos_of_a_single_concept(photo_folder: Path, capsys):
    (photo_folder / "concept.yaml").write_text("initializer: dog")
    assert train.main(["--data.path", str(photo_folder), "--concept.name", "rex"]) == 2
    warning, _ = capsys.readouterr().err.splitlines()
    assert "concept.yaml' is not read" in warning and "--concept.initializer" in warning


def test_photos_of_ones_own_need_a_name(photo_folder: Path, capsys):
    assert train.main(["--data.path", str(photo_folder)]) == 2
    assert "--concept.name" in capsys.readouterr().err
    assert train.main(["--data.path", str(photo_folder / "none")]) == 2
    assert "there is no folder of images" in capsys.readouterr().err
