# SPDX-License-Identifier: Apache-2.0
"""PNG files: what they carry, their names, and what is never done to the folder."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from png_text import read_parameters

from mrti_jax.errors import UserError
from mrti_jax.sampling import Picture
from mrti_jax.sampling.png import check_folder, save_picture, slug

PARAMETERS: dict[str, Any] = {
    "prompt": "a photo of <jane[0.8]>\nin \u00fcber \u2603 blue",
    "negative_prompt": "red, \u732b",
    "seed": 7,
    "model": "/models/sd15",
    "sampler": "dpmpp_2m_karras",
    "num_steps": 20,
    "guidance_scale": 7.5,
    "height": 8,
    "width": 12,
    "concepts": {"jane": "0123"},
}


@pytest.fixture
def picture() -> Picture:
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    return Picture(image, PARAMETERS)


def test_round_trip(picture: Picture, tmp_path: Path) -> None:
    path = save_picture(picture, tmp_path / "new" / "folder")
    assert read_parameters(path) == PARAMETERS
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture.image)


def test_the_text_that_other_tools_read(picture: Picture, tmp_path: Path) -> None:
    with Image.open(save_picture(picture, tmp_path)) as image:
        text = image.info["parameters"]
    assert text == (
        "a photo of <jane[0.8]>\nin \u00fcber \u2603 blue\nNegative prompt: red, \u732b\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 7, Size: 12x8, Model: sd15"
    )


def test_nothing_is_overwritten(picture: Picture, tmp_path: Path) -> None:
    paths = [save_picture(picture, tmp_path) for _ in range(3)]
    stem = "a-photo-of-jane-0.8-in-ber-blue-seed7"
    assert [path.name for path in paths] == [f"{stem}.png", f"{stem}-2.png", f"{stem}-3.png"]


def test_nothing_is_overwritten_by_several_at_once(picture: Picture, tmp_path: Path) -> None:
    drawn = [Picture(np.full_like(picture.image, i), PARAMETERS) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda one: save_picture(one, tmp_path), drawn))
    assert sorted(paths) == sorted(tmp_path.iterdir()) and len(set(paths)) == len(drawn)
    for path, one in zip(paths, drawn, strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), one.image)


def test_no_file_is_left_where_the_disk_is_full(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_picture(picture, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a photo of <star(3)>", "a-photo-of-star-semi-3"),
        ("<star|0.5|>", "star-fixed-0.5"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\windows\\..", "C-windows"),
        ("\u732b", "picture"),
        ("word " * 50, "word-word-word-word-word-word-word-word-word-word-word-word"),
    ],
)
def test_names_stay_in_the_folder(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_a_file_in_the_folders_place(picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        save_picture(picture, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
    with pytest.raises(UserError, match="taken is a file"):
        check_folder(tmp_path / "taken" / "deeper")


def test_a_folder_that_can_not_be_made_is_told_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folder(tmp_path / "new" / "deeper")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # for root, too
    with pytest.raises(UserError, match="is write-protected"):
        check_folder(tmp_path / "new" / "deeper")
