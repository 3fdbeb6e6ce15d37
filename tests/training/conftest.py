# SPDX-License-Identifier: Apache-2.0
"""Small photos, and settings of runs of a few updates."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrti_jax.training.config import Config

SIZE = 16


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Three smooth uint8 RGB pictures of the tiny model's size."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1)
    return [np.uint8(255 * np.stack([x, y, np.full_like(x, k / 2)], axis=-1)) for k in range(3)]


@pytest.fixture
def photo_folder(tmp_path: Path, pictures: list[np.ndarray]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """`make_config(concept={"num_buckets": 2}, train={"steps": 3})`: few updates, no final grid."""

    def make(**sections: dict[str, Any]) -> Config:
        defaults: dict[str, dict[str, Any]] = {
            "optimizer": {"schedule": "constant", "warmup_steps": 0, "learning_rate": 1e-2},
            "train": {"steps": 4, "batch_size": 4, "metrics_every": 2, "final_grid": False},
        }
        config = Config()
        for name in {*defaults, *sections}:
            values = defaults.get(name, {}) | sections.get(name, {})
            config = replace(config, **{name: replace(getattr(config, name), **values)})
        return config

    return make
