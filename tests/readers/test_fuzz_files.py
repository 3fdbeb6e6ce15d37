# SPDX-License-Identifier: Apache-2.0
"""Every reader of files, on damaged and hostile ones: a result or a UserError, and in little time.

More than 50,000 files with `FUZZ=full`.
"""

import dataclasses
import io
import json
import os
import pickletools
import resource
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from fuzz import EXTREMES, cases, damaged
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_concept

from mrti_jax.concept import Concept
from mrti_jax.errors import UserError
from mrti_jax.models.parts import PARTS, read_part_config
from mrti_jax.models.stored.safetensors_file import read_safetensors
from mrti_jax.models.stored.tensor_file import read_tensor_file
from mrti_jax.models.stored.weights import read_json
from mrti_jax.sampling import Picture
from mrti_jax.sampling.png import read_parameters, save_picture
from mrti_jax.training import Config, load_concept, read_config
from mrti_jax.training.checkpoint import Checkpoints
from mrti_jax.training.config import check
from mrti_jax.training.images import read_folder

MEMORY = 2 << 30  # bytes that the process may grow by, whatever the files claim


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    before = peak_memory()
    yield
    assert peak_memory() - before < MEMORY


def peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def result(read: Callable[[], Any]) -> Any:
    """What is read, or None at an error of ours, which is one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except UserError as error:
            message = str(error)
    assert message and "\n" not in message and len(message) < 2000, message[:3000]
    return None


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
PICTURE = png(chunk(b"tEXt", b"mrti_jax\0" + json.dumps({"prompt": "a", "seed": 1}).encode()))
TENSORS = safetensors.numpy.save(
    {"a.weight": np.ones((4, 3), np.float32), "b": np.zeros(2, np.float16)}, {"format": "pt"}
)


def stored(name: str, storage: str, key: str, shape: tuple[int, int]) -> bytes:
    """A tensor in a pickle of PyTorch, with its name before it."""
    rows, columns = shape
    place = f"(Vstorage\nctorch\n{storage}\nV{key}\nVcpu\nI{rows * columns}\ntQ"
    numbers = f"K\0(I{rows}\nI{columns}\nt(I{columns}\nI1\nt"
    call = f"V{name}\nctorch._utils\n_rebuild_tensor_v2\n({place}{numbers}"
    return call.encode() + b"\x89ccollections\nOrderedDict\n)RtR"


PICKLE = (
    b"\x80\x02}(Vstate_dict\nccollections\nOrderedDict\n)R("
    + stored("a.weight", "FloatStorage", "0", (4, 3))
    + stored("b", "HalfStorage", "1", (2, 1))
    + b"uVglobal_step\nI5\nVloss\ncnumpy\ndtype\nVf4\n\x85R(K\x03U\x01<NtbVleft\n"
    + b"ccollections\nCounter\n}K\x01K\x02s\x85RVlist\n]q\x01(h\x01eu."
)
# What one byte, or a few, can ask of a pickle's reader.
OPERATIONS = [
    *(operation.code.encode("latin-1") for operation in pickletools.opcodes),
    *(b"q\x01", b"h\x01", b"K\x01", b"X\x01\0\0\0a", b"V0\n", b"I1000000000\n", b"I-1\n"),
    *(
        b"r\xff\xff\xff\xff",
        b"\x96" + b"\xff" * 8,
        b"\x95\0\0\0\0\0\1\0\0",
        b"\x8b\xff\xff\xff\x7f",
    ),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n"),
    *(b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", b"cos\nsystem\n", b"cbuiltins\neval\n"),
    stored("c", "FloatStorage", "0", (3, 4)),
]


def torch_zip(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in {
            "data.pkl": pickled,
            "byteorder": b"little",
            "data/0": np.ones((4, 3), np.float32).tobytes(),
            "data/1": np.zeros(2, np.float16).tobytes(),
            "version": b"3\n",
        }.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return stream.getvalue()


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


@cases(damaged(PICTURE) | st.binary(max_size=60), quick=100, full=10_000)
def test_text_chunks_of_png_files(place: Path, content: bytes) -> None:
    file = place / "picture.png"
    file.write_bytes(content)
    assert isinstance(result(lambda: read_parameters(file)), dict | None)


@cases(st.binary(max_size=300), st.sampled_from([b"tEXt", b"zTXt", b"iTXt"]), quick=50, full=4_000)
def test_text_chunks_that_others_wrote(place: Path, content: bytes, kind: bytes) -> None:
    file = place / "picture.png"
    file.write_bytes(png(chunk(kind, b"mrti_jax\0" + content)))
    assert isinstance(result(lambda: read_parameters(file)), dict | None)


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


def read_tensors(file: Path, content: bytes) -> dict[str, np.ndarray] | None:
    """The tensors of a file, none larger than the file."""
    file.write_bytes(content)

    def read() -> dict[str, np.ndarray]:
        tensors, facts = read_tensor_file(epath.Path(file))
        assert all(isinstance(value, int | float | str | None) for value in facts.values())
        return {name: tensor.read() for name, tensor in tensors.items()}

    tensors = result(read)
    assert tensors is None or all(value.nbytes <= len(content) for value in tensors.values())
    return tensors


def test_undamaged_files_of_pytorch(place: Path) -> None:
    tensors = read_tensors(place / "model.ckpt", torch_zip(PICKLE))
    expected = {"a.weight": np.ones((4, 3), np.float32), "b": np.zeros((2, 1), np.float16)}
    np.testing.assert_equal(tensors, expected)


@cases(damaged(torch_zip(PICKLE)), quick=200, full=12_000)
def test_files_of_pytorch(place: Path, content: bytes) -> None:
    read_tensors(place / "model.ckpt", content)


@cases(
    damaged(PICKLE)
    | st.builds(
        lambda at, pieces: PICKLE[:at] + b"".join(pieces) + PICKLE[at:],
        st.integers(2, len(PICKLE)),
        st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=12),
    )
    | st.lists(st.sampled_from(OPERATIONS), max_size=30).map(b"".join),
    quick=300,
    full=24_000,
)
def test_pickles_of_pytorch(place: Path, content: bytes) -> None:
    read_tensors(place / "model.ckpt", torch_zip(content))


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
    with Checkpoints(epath.Path(out), keep=2) as checkpoints:
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
        png(chunk(b"zTXt", b"mrti_jax\0\0" + ZEROS)),
        png(chunk(b"iTXt", b"mrti_jax\0\1\0\0\0" + ZEROS)),
        png(chunk(b"iCCP", b"icc\0\0" + ZEROS)),
        png(chunk(b"tEXt", b"mrti_jax\0" + b"[" * 100_000)),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(x) (w) file\n",
    ],
    ids=["60000x60000", "2**31", "zTXt", "iTXt", "iCCP", "nested JSON", "PostScript"],
)
def test_bombs_in_images(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(content)
    result(lambda: read_folder(file, 16))
    assert result(lambda: read_parameters(file)) is None


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
