# SPDX-License-Identifier: Apache-2.0
"""What is told of a subject's photos before they are trained on."""

from pathlib import Path

import pytest

from mrti_jax.errors import UserError
from mrti_jax.training.config import DataConfig
from mrti_jax.training.subject import Subject, read_photos


def read(folder: Path | str, *, captions: bool) -> list[tuple[str, ...]]:
    subject = Subject(images=folder, name="rex", initializer="star")
    return [photo.captions for photo in read_photos(subject, 16, DataConfig(captions=captions))]


def test_photos_without_a_caption_are_named(photo_folder: Path):
    with pytest.raises(UserError, match="none of <rex>'s images has one"):
        read(photo_folder, captions=True)
    (photo_folder / "1.txt").write_text("{} on a beach")
    told = "2 of <rex>'s images have no caption and are trained with templates: 0.png, 2.png"
    with pytest.warns(UserWarning, match=told):
        assert read(photo_folder, captions=True) == [(), ("{} on a beach",), ()]
    assert read(photo_folder, captions=False) == [(), (), ()]


def test_a_folder_with_the_name_of_the_sample_is_told_apart(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    photo_folder.rename(photo_folder.with_name("sample"))
    monkeypatch.chdir(photo_folder.parent)
    with pytest.warns(UserWarning, match=r"ships with mrti_jax.*write \./sample"):
        assert len(read(Path("sample"), captions=False)) == 4
    assert len(read("./sample", captions=False)) == 3


def test_equal_photos_are_counted(photo_folder: Path):
    (photo_folder / "3.png").write_bytes((photo_folder / "0.png").read_bytes())
    with pytest.warns(UserWarning, match="only 3 of the 4 images are distinct: <rex>"):
        read(photo_folder, captions=False)


def test_a_single_photo_is_told(photo_folder: Path):
    with pytest.warns(UserWarning, match="only one image, so <rex> also learns its background"):
        read(photo_folder / "0.png", captions=False)
