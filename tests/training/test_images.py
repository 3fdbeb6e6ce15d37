# SPDX-License-Identifier: Apache-2.0
"""Image files of all kinds as square RGB pictures."""

import inspect
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrti_jax.errors import UserError
from mrti_jax.training.images import from_arrays, read_folder, square

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def halves(width: int, height: int, left: tuple[int, int, int], right: tuple[int, int, int]):
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_wide_and_tall_pictures_are_cropped_and_not_squashed():
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste(GREEN, (32, 0, 64, 32))  # the middle third
    assert (square("a", wide, 16).pixels[:, 3:-3] == GREEN).all()  # but for the filter at the seams
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert (square("a", tall, 16).pixels[3:-3] == GREEN).all()
    inner = Image.new("L", (200, 100))
    inner.paste(255, (75, 25, 125, 75))  # a square stays one
    inside = square("a", inner, 50).pixels[..., 0] > 200
    assert inside.any(0).sum() == inside.any(1).sum() and 23 <= inside.any(0).sum() <= 26


def test_sizes_are_those_of_the_file_and_of_the_crop():
    wide = square("a", Image.new("RGB", (300, 100)), 50)  # scaled to 150 x 50
    assert wide.sizes == (100, 300, 0, 50, 50, 50)
    tall = square("a", Image.new("RGB", (20, 31)), 40)  # enlarged to 40 x 62
    assert tall.sizes == (31, 20, 11, 0, 40, 40)
    turned = Image.new("RGB", (300, 100))
    turned.getexif()[0x0112] = 6  # rotate 90 degrees clockwise to see it upright
    assert square("a", turned, 50).sizes == (300, 100, 50, 0, 50, 50)


def test_exif_orientation_is_applied(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to see it upright
    halves(32, 32, RED, BLUE).save(tmp_path / "a.png", exif=exif)
    (photo,) = read_folder(tmp_path, 32)
    assert (photo.pixels[:14] == RED).all() and (photo.pixels[18:] == BLUE).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode: str, tmp_path: Path):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (8, 0, 16, 16))
    if mode == "P":
        image = Image.new("P", (16, 16), 0)
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.paste(1, (8, 0, 16, 16))
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "a.png")
    (photo,) = read_folder(tmp_path, 16)
    pixels = photo.pixels
    assert (pixels[:, :8] == 255).all() and (pixels[:, 8:] == 0).all()


def test_grey_16_bit_palette_and_cmyk(tmp_path: Path):
    Image.fromarray(np.full((16, 16), 128 * 257, np.uint16)).save(tmp_path / "16bit.png")
    Image.new("L", (16, 16), 128).save(tmp_path / "grey.png")
    Image.new("RGB", (16, 16), RED).convert("P").save(tmp_path / "palette.png")
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    means = {p.name: p.pixels.mean(axis=(0, 1)) for p in read_folder(tmp_path, 16)}
    np.testing.assert_allclose(means["16bit.png"], 128)
    np.testing.assert_allclose(means["grey.png"], 128)
    np.testing.assert_allclose(means["palette.png"], RED)
    np.testing.assert_allclose(means["cmyk.jpg"], RED, atol=4)  # JPEG


def test_all_formats_sorted_hidden_files_and_others_ignored(tmp_path: Path):
    for name in ("d.BMP", "c.webp", "b.jpeg", "a.PNG", ".hidden.png", "e.jfif"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "folder.png").mkdir()
    names = [p.name for p in read_folder(tmp_path, 16)]
    assert names == ["a.PNG", "b.jpeg", "c.webp", "d.BMP", "e.jfif"]


def test_truncated_jpeg_among_good_ones_is_named_and_skipped(tmp_path: Path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "good.jpg")
    content = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"skipped 2 images .*cut\.jpg.*empty\.png"):
        photos = read_folder(tmp_path, 32)
    assert [p.name for p in photos] == ["good.jpg"]
    (tmp_path / "good.jpg").unlink()
    with pytest.raises(UserError, match=r"none of them can be read: cut\.jpg"):
        read_folder(tmp_path, 32)


def test_decompression_bomb_is_refused(tmp_path: Path):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    (tmp_path / "bomb.png").write_bytes(bomb + png_chunk(b"IEND", b""))
    with pytest.raises(UserError, match=r"bomb\.png \(over \d+ megapixels: scale it down"):
        read_folder(tmp_path, 16)


def test_small_images_are_named(tmp_path: Path):
    Image.new("RGB", (20, 9)).save(tmp_path / "small.png")
    with pytest.warns(UserWarning, match=r"enlarged to 16 px.*small\.png \(20x9\)"):
        assert read_folder(tmp_path, 16)[0].pixels.shape == (16, 16, 3)


def test_missing_and_empty_folders(tmp_path: Path):
    with pytest.raises(UserError, match="there is no folder"):
        read_folder(tmp_path / "nowhere", 16)
    with pytest.raises(UserError, match="it is empty"):
        read_folder(tmp_path, 16)
    (tmp_path / "a.HEIC").write_text("x")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"holds 1 x \.heic, 1 x folder; save them as"):
        read_folder(tmp_path, 16)
    with pytest.raises(UserError, match="not a folder"):
        read_folder(tmp_path / "a.HEIC", 16)


def test_captions_stand_beside_their_image(tmp_path: Path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("\ufeff<jane> on a beach\n\na {} at night\n", encoding="utf-8")
    first, second = read_folder(tmp_path, 16, caption_word="jane")
    assert first.captions == ("{} on a beach", "a {} at night") and second.captions == ()
    (tmp_path / "b.txt").write_text("a dog\n")
    with pytest.warns(UserWarning, match=r"1 of the 1 captions.*neither <jane> nor \{\}.*'a dog'"):
        _, second = read_folder(tmp_path, 16, caption_word="jane")
    assert second.captions == ()


def test_captions_without_their_image_are_named(tmp_path: Path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("<jane> on a beach\n")
    with pytest.warns(UserWarning, match=r"1 text in .* left out, without an image: b\.txt"):
        read_folder(tmp_path, 16, caption_word="jane")


def test_pictures_in_memory():
    array = np.zeros((16, 24, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    photos = from_arrays([array, Image.open(stream)], 16)
    assert (photos[0].pixels == photos[1].pixels).all()
    with pytest.raises(UserError, match="empty"):
        from_arrays([], 16)
    assert len(from_arrays((array for _ in range(3)), 16)) == 3


def test_pictures_of_formats_that_are_not_read_are_told(tmp_path: Path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "b.gif")
    (tmp_path / "c.HEIC").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"2 pictures in .* left out, .*: b\.gif, c\.HEIC; save"):
        assert len(read_folder(tmp_path, 16)) == 1


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((16, 16, 3), np.float32), r"not float32 \[16, 16, 3\]"),
        (np.zeros((16, 16), np.uint8), r"not uint8 \[16, 16\]"),
        (np.zeros((3, 16, 16), np.uint8), r"not uint8 \[3, 16, 16\]"),
        ("a.png", r"not str \(of files, give the folder\)"),
    ],
)
def test_what_is_no_picture_in_memory(image: object, told: str):
    with pytest.raises(UserError, match=rf"uint8 arrays \[height, width, 3\], {told}"):
        inspect.unwrap(from_arrays)([image], 16)  # type: ignore[list-item]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pictures_in_memory_whose_white_is_not_known(mode: str):
    with pytest.raises(UserError, match=f"what white is in mode {mode} is not known"):
        from_arrays([Image.new(mode, (16, 16))], 16)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a <rex> and a {}", r"unknown concept word <rex> \(known concepts: jane\)"),
        ("a <jane[3]>", r"has <jane\[3\]>: .*write <jane>"),
        ("a <jane:0.8>", "expected '>'"),
    ],
)
def test_captions_with_other_words(tmp_path: Path, caption: str, message: str):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(f"a <jane>\n{caption}\n")
    with pytest.raises(UserError, match=message) as caught:
        read_folder(tmp_path, 16, caption_word="jane")
    assert caption in str(caught.value) and "a.txt" in str(caught.value)


def test_captions_with_what_is_text(tmp_path: Path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a <b>{}</b>, \\<rex> and <jane> <3\n")
    (photo,) = read_folder(tmp_path, 16, caption_word="jane")
    assert photo.captions == ("a <b>{}</b>, <rex> and {} <3",)


def test_captions_that_cannot_be_read(tmp_path: Path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match=r"captions in '.*a\.txt' can't be read"):
        read_folder(tmp_path, 16, caption_word="jane")


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("listdir", "scandir"):  # for Pythons old and new; root may read everything
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(UserError, match=f"can't read the folder '{tmp_path}': Permission denied"):
        read_folder(tmp_path, 16)
