# SPDX-License-Identifier: Apache-2.0
"""Readers of files on damaged and hostile ones: a result or a UserError, and in little time.

PyTorch's files are in test_fuzz_torch_file.py. More than 50,000 files with `FUZZ=full`.
"""

import dataclasses
import io
import json
import os
import struct
import zlib
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from fuzz import EXTREMES, cases, damaged, result
from hypothesis import strategies as st
from PIL import Image
from png_text import read_parameters
from tiny import tiny_concept

from mrti_jax.concept import Concept
from mrti_jax.models.parts import PARTS, read_part_config
from mrti_jax.models.stored.safetensors_file import read_safetensors
from mrti_jax.models.stored.weights import read_json
from mrti_jax.sampling import Picture
from mrti_jax.sampling.png import save_picture
from mrti_jax.training import Config, load_concept, read_config
from mrti_jax.training.checkpoint import Checkpoints
from mrti_jax.training.config import check
from mrti_jax.training.images import read_folder


def image(form: str, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    colours = np.arange(20 * 24 * 4, dtype=np.uint8).reshape(20, 24, 4)
    Image.fromarray(colours).convert(mode).save(stream, form)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    check_sum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check_sum)


def png(*chunks: bytes, width: int = 16, height: int = 16, data: bytes = b"") -> bytes:
    """A grey PNG file; `data`: its compressed pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = data or zlib.compress(bytes((width + 1) * height))
    end = chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + end


IMAGES = [image("PNG"), image("PNG", "P"), image("JPEG"), image("WEBP"), image("BMP")]
ZEROS = zlib.compress(bytes(50_000_000), 9)  # 50 kB
TENSORS = safetensors.numpy.save(
    {"a.weight": np.ones((4, 3), np.float32), "b": np.zeros(2, np.float16)}, {"format": "pt"}
)


RECIPE = (Path(__file__).parents[2] / "configs" / "sd15.yaml").read_bytes()
YAML_PIECES = [
    *(
        "train:",
        "steps:",
        "data:",
        "concept:",
        "- ",
        "  ",
        "\n",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
    ),
    *(
        "1e999",
        ".nan",
        "-.inf",
        "2001-99-99",
        "!!python/object:os.system ",
        "? ",
        "<<: ",
        "|\n",
        "~",
    ),
    *("99999999999999999999", "optimizer:\n  learning_rate: ", "'", '"', "#", "%YAML 9\n---\n"),
]


@cases(st.sampled_from(IMAGES).flatmap(damaged), quick=100, full=16_000)
def test_images(place: Path, content: bytes) -> None:
    file = place / "image.png"
    file.write_bytes(content)
    photos = result(lambda: read_folder(file, 16))
    assert photos is None or photos[0].pixels.shape == (16, 16, 3)


@pytest.fixture(scope="module")
def concept_file(place: Path) -> bytes:
    tiny_concept(num_buckets=3).save(place / "tiny.safetensors")
    return (place / "tiny.safetensors").read_bytes()


@cases(st.data(), quick=100, full=12_000)
def test_concept_files(place: Path, concept_file: bytes, data: st.DataObject) -> None:
    content = data.draw(damaged(concept_file))
    file = place / "concept.safetensors"
    file.write_bytes(content)
    concept = result(lambda: Concept.load(file))
    assert concept is None or np.isfinite(concept.embeddings).all()


@cases(damaged(TENSORS), quick=100, full=6_000)
def test_safetensors(place: Path, content: bytes) -> None:
    file = epath.Path(place / "model.safetensors")
    file.write_bytes(content)

    def read() -> int:
        tensors, _ = read_safetensors(file)
        return sum(tensor.read().nbytes for tensor in tensors.values())

    size = result(read)
    # Tensors may share bytes, but each has no more of them than the file.
    assert size is None or size <= 2 * len(content)


@cases(
    damaged(RECIPE) | st.lists(st.sampled_from(YAML_PIECES), max_size=20).map("".join),
    quick=100,
    full=6_000,
)
def test_recipes(place: Path, content: bytes | str) -> None:
    file = place / "recipe.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def read() -> Config:
        config = read_config(file)
        check(config)
        return config

    assert isinstance(result(read), Config | None)


@cases(damaged(b'{"sample_size": 64, "block_out_channels": [32, 64]}'), quick=50, full=2_000)
def test_json_of_models(place: Path, content: bytes) -> None:
    file = epath.Path(place / "config.json")
    file.write_bytes(content)
    assert isinstance(result(lambda: read_json(file)), dict | None)


WORDS = ["silu", "text_time", "quick_gelu", "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D"]
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS)
VALUES = st.sampled_from([8, 32, 320]) | ATOMS | st.lists(ATOMS, max_size=4) | st.just([[1]])


@cases(st.sampled_from(list(PARTS)), st.data(), quick=150, full=6_000)
def test_configs_of_models(part: str, data: st.DataObject) -> None:
    fields = [field.name for field in dataclasses.fields(PARTS[part][0])]
    keys = st.sampled_from([*fields, "_class_name", "act_fn", "shift_factor"])
    config = data.draw(st.dictionaries(keys, VALUES, max_size=4))
    read = result(lambda: read_part_config(part, config))
    assert isinstance(read, PARTS[part][0] | None)


@pytest.fixture(scope="module")
def training_folder(place: Path) -> Path:
    """Two checkpoints of one concept, with other numbers."""
    out = place / "run"
    with Checkpoints(epath.Path(out), "jane", keep=2) as checkpoints:
        for step in (1, 2):
            concept = tiny_concept(num_buckets=2 + step)
            checkpoints.save(step, {"step": np.int32(step)}, concept, {})
            checkpoints.wait()
    return out


@cases(st.data(), quick=20, full=1_200)
def test_orbax_folders(place: Path, training_folder: Path, data: st.DataObject) -> None:
    copy = place / "copy"
    rmtree(copy, ignore_errors=True)
    copytree(training_folder, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
        if data.draw(st.integers(0, 9)):
            file.write_bytes(data.draw(damaged(file.read_bytes())))
        else:
            file.unlink(missing_ok=True)
    concept = result(lambda: load_concept(copy))
    if concept is not None:
        expected = tiny_concept(num_buckets=concept.num_buckets).embeddings
        np.testing.assert_array_equal(concept.embeddings, expected)


NAMES = [
    "../../x",
    "/etc/x",
    "..",
    ".",
    "a/b",
    "a\\b",
    "C:\\x",
    "NUL",
    "ftp://x",
    "/dev/null",
    "~",
    "a\0b",
    "\n",
]


@cases(st.sampled_from(NAMES) | st.text(max_size=300), quick=100, full=3_000)
def test_no_file_outside_the_output_folder(place: Path, name: str) -> None:
    """Of a prompt, and of a concept's name in a file that others made."""
    inside, around = place / "around" / "out", place / "around"
    rmtree(around, ignore_errors=True)
    parameters = {"prompt": name, "negative_prompt": name, "seed": 0, "sampler": "ddim"} | {
        "num_steps": 1, "guidance_scale": 1.0, "width": 8, "height": 8, "model": name
    }  # fmt: skip
    picture = Picture(np.zeros((8, 8, 3), np.uint8), parameters)
    path = result(lambda: save_picture(picture, inside))
    if path is not None:
        assert [os.fspath(path)] == [str(file) for file in around.rglob("*") if file.is_file()]
        assert read_parameters(path)["prompt"] == name
    made = result(lambda: Concept(name, np.zeros((1, 1, 2), np.float32), np.int32([0, 9])))
    assert made is None or (name.isascii() and not set(name) & set("/\\.:\0~ \n"))


@pytest.mark.parametrize(
    "content",
    [
        png(width=60_000, height=60_000, data=ZEROS),
        png(width=2**31 - 1, height=2**31 - 1, data=ZEROS),
        png(chunk(b"zTXt", b"comment\0\0" + ZEROS)),
        png(chunk(b"iTXt", b"comment\0\1\0\0\0" + ZEROS)),
        png(chunk(b"iCCP", b"icc\0\0" + ZEROS)),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(x) (w) file\n",
    ],
    ids=["60000x60000", "2**31", "zTXt", "iTXt", "iCCP", "PostScript"],
)
def test_bombs_in_images(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(content)
    result(lambda: read_folder(file, 16))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        )
        + "train: *i\n",
        "train: " + "[" * 10_000,
        "train:\n  steps: " + "9" * 10_000,
        "x" * 2_000_000,
    ],
    ids=["billion laughs", "nested", "digits", "long"],
)
def test_bombs_in_recipes(tmp_path: Path, text: str) -> None:
    (tmp_path / "bomb.yaml").write_text(text)
    assert result(lambda: read_config(tmp_path / "bomb.yaml")) is None


@pytest.mark.parametrize("header", EXTREMES)
def test_headers_that_claim_too_much(tmp_path: Path, header: bytes) -> None:
    claim = json.dumps(
        {
            "__metadata__": {"format": "mrti-concept/1", "name": "x"},
            "embeddings": {"dtype": "F32", "shape": [2**40, 1, 8], "data_offsets": [0, 2**45]},
            "boundaries": {"dtype": "I32", "shape": [2**40], "data_offsets": [2**45, 2**46]},
        }
    ).encode()
    for content in (header, struct.pack("<Q", len(claim)) + claim + header):
        file = tmp_path / "x.safetensors"
        file.write_bytes(content)
        assert result(lambda: Concept.load(file)) is None  # noqa: B023
        result(lambda: read_safetensors(epath.Path(file)))  # noqa: B023


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_devices_and_pipes_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        assert result(lambda: Concept.load(path)) is None  # noqa: B023
        assert result(lambda: read_config(path)) is None  # noqa: B023
        assert result(lambda: read_folder(path, 16)) is None  # noqa: B023
    assert result(lambda: read_folder(tmp_path, 16)) is None
