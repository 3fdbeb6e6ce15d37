# SPDX-License-Identifier: Apache-2.0
"""Recipes: what they may hold, and that the ones of the project are what they say."""

from pathlib import Path

import pytest
from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.training.config import Config, check, read_config, resolve
from mrti_jax.training.yaml import read_yaml, write_yaml

RECIPES = Path(__file__).parents[2] / "configs"


def test_the_defaults_are_the_recipe_of_the_embedded_model():
    assert read_config(RECIPES / "mini.yaml") == Config()


def test_the_recipe_of_the_paper():
    config = read_config(RECIPES / "paper.yaml")
    assert (config.data.size, config.train.steps, config.train.batch_size) == (512, 3000, 4)
    assert (config.optimizer.learning_rate, config.optimizer.schedule) == (2e-3, "constant")
    assert config.optimizer.dense and config.train.timesteps == "uniform"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_can_be_used(path: Path):
    check(read_config(path))


def test_what_is_written_reads_back(tmp_path: Path):
    config = resolve(Config())
    write_yaml(config, epath.Path(tmp_path / "config.yaml"))
    assert read_config(tmp_path / "config.yaml") == config
    assert config.concept.name == "jane" and config.out == "runs/jane"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian:\n  steps: 3", "unknown key 'trian'.*'train'"),
        ("train:\n  step: 3", "unknown key 'step' in 'train'.*'steps'"),
        ("train:\n  steps: 3\n  seed: 1\n  steps: 4", "the key 'steps' appears twice.*line 4"),
        ("train: 3", "'train' is 3, but must hold keys"),
        ("train:", "'train' is empty, but must hold keys"),
        ("train:\n  steps: many", "'train.steps' is 'many', but must be a whole number"),
        ("train:\n  steps: true", "must be a whole number"),
        ("data:\n  flip: 1", "must be true or false"),
        ("optimizer:\n  schedule: step", "must be one of constant, cosine, linear"),
        ("optimizer:\n  learning_rate: fast", "must be a number"),
        ("a: [", "is not YAML"),
        ("- a", "must hold `key: value` lines"),
    ],
)
def test_wrong_recipes(text: str, message: str, tmp_path: Path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_config(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_anchors_and_merge_keys_go_on_working(tmp_path: Path):
    text = "base: &a {x: 1}\ndeep:\n  inner: &b\n    <<: *a\n    y: 2\ntop:\n  <<: *b\n  y: 3\n"
    (tmp_path / "a.yaml").write_text(text)
    read = read_yaml(epath.Path(tmp_path / "a.yaml"))
    assert read == {"base": {"x": 1}, "deep": {"inner": {"x": 1, "y": 2}}, "top": {"x": 1, "y": 3}}


def test_numbers_as_people_write_them(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("optimizer:\n  learning_rate: 2e-3\n  weight_decay: 0\n")
    optimizer = read_config(tmp_path / "a.yaml").optimizer
    assert optimizer.learning_rate == 2e-3 and optimizer.weight_decay == 0.0


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("train", {"steps": 0}, "train.steps is 0"),
        ("train", {"seed": -1}, "train.seed is -1"),
        ("train", {"steps": 2**29, "batch_size": 4}, r"2\*\*31 examples or more"),
        ("train", {"batch_size": 4, "accumulation": 3}, "equal parts"),
        ("optimizer", {"learning_rate": 0.0}, "above 0"),
        ("optimizer", {"beta2": 1.0}, "at least 0 and below 1"),
        ("optimizer", {"sharing": 1.5}, "sharing is 1.5, but must be 0 to 1"),
        ("train", {"min_snr_gamma": 0.0}, "min_snr_gamma is 0.0"),
        ("train", {"min_snr_gamma": 3.0}, "no effect without train.weighting min_snr"),
        ("concept", {"num_buckets": 0}, "num_buckets is 0"),
    ],
)
def test_values_that_no_run_can_use(make_config, section: str, values: dict, message: str):
    with pytest.raises(UserError, match=message):
        check(make_config(**{section: values}))


def test_photos_of_ones_own_need_a_name_and_an_initializer():
    config = read_config(RECIPES / "sd15.yaml")
    with pytest.raises(UserError, match=r"--concept\.name"):
        resolve(config)
