# SPDX-License-Identifier: Apache-2.0
"""The concept file."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from safetensors import safe_open
from safetensors.numpy import save_file

from mrti_jax.concept import Concept
from mrti_jax.errors import UserError


def test_round_trip(tmp_path: Path, make_concept: Callable[..., Concept]) -> None:
    concept = make_concept("jane-2", num_buckets=3, num_vectors=2, initializer="dög", seed="7")
    path = tmp_path / "new" / "folder" / "concept.safetensors"
    concept.save(path)
    for source in (path, str(path), path.parent):
        loaded = Concept.load(source)
        assert loaded.name == "jane-2"
        assert loaded.metadata == {"initializer": "dög", "seed": "7"}
        assert loaded.embeddings.tobytes() == concept.embeddings.tobytes()
        assert loaded.boundaries.tolist() == [0, 334, 667, 1000]
    assert (loaded.num_buckets, loaded.num_vectors, loaded.width) == (3, 2, 16)
    assert loaded.num_train_timesteps == 1000
    assert os.listdir(path.parent) == ["concept.safetensors"]


def test_file_format(tmp_path: Path, make_concept: Callable[..., Concept]) -> None:
    make_concept().save(tmp_path)
    with safe_open(tmp_path / "concept.safetensors", framework="numpy") as file:
        assert set(file.keys()) == {"embeddings", "boundaries"}
        assert file.get_tensor("embeddings").shape == (10, 1, 16)
        assert file.get_tensor("boundaries").dtype == np.int32
        metadata = file.metadata()
    assert metadata == {
        "format": "mrti-concept/1",
        "name": "jane",
        "num_train_timesteps": "1000",
    }


def test_two_text_models_have_a_tensor_each(tmp_path: Path) -> None:
    parts = (("clip_l", 3), ("clip_g", 5))
    table = np.arange(32, dtype=np.float32).reshape(2, 2, 8)
    concept = Concept("jane", table, np.asarray([0, 500, 1000], np.int32), {}, parts)
    concept.save(tmp_path)
    with safe_open(tmp_path / "concept.safetensors", framework="numpy") as file:
        assert set(file.keys()) == {"embeddings.clip_l", "embeddings.clip_g", "boundaries"}
        assert np.array_equal(file.get_tensor("embeddings.clip_l"), table[..., :3])
        assert np.array_equal(file.get_tensor("embeddings.clip_g"), table[..., 3:])
    loaded = Concept.load(tmp_path)
    assert np.array_equal(loaded.embeddings, table) and loaded.parts == parts
    with pytest.raises(UserError, match="don't add up"):
        Concept("jane", table, concept.boundaries, {}, parts[:1])

    tensors = concept.tensors
    wrong: dict[str, dict[str, Any]] = {
        "instead of boundaries, embeddings.clip_l, embeddings.clip_g": {"embeddings.clip_g": None},
        "different numbers of vectors": {"embeddings.clip_g": table[:, :1, 3:].copy()},
        r"boundaries must be int32 \[2\]": {"embeddings.clip_l": table[:1, :, :3].copy()},
    }
    for message, change in wrong.items():
        changed = {k: v for k, v in {**tensors, **change}.items() if v is not None}
        metadata = {"format": "mrti-concept/1", "name": "jane"}
        save_file(changed, tmp_path / "wrong.safetensors", metadata)
        with pytest.raises(UserError, match=message):
            Concept.load(tmp_path / "wrong.safetensors")


def test_save_leaves_the_old_file_if_it_fails(
    tmp_path: Path, make_concept: Callable[..., Concept], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_concept().save(tmp_path)

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"concept\.safetensors: No space left"):
        make_concept("other").save(tmp_path)
    assert Concept.load(tmp_path).name == "jane"
    assert os.listdir(tmp_path) == ["concept.safetensors"]


def test_a_cloud_path_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: object) -> bool:
        raise ImportError("Please install gcsfs\nto access Google Storage")

    monkeypatch.setattr(epath.Path("x").__class__, "is_dir", missing)
    with pytest.raises(UserError, match=r"gs://nowhere/jane.*: Please install gcsfs to access"):
        Concept.load("gs://nowhere/jane.safetensors")


GOOD = {"format": "mrti-concept/1", "name": "jane"}
TABLE = np.ones((2, 1, 4), np.float32)
EDGES = np.array([0, 5, 10], np.int32)
NAN = TABLE.copy()
NAN[1, 0, 2] = np.nan


@pytest.mark.parametrize(
    ("tensors", "metadata", "problem"),
    [
        ({"embeddings": TABLE[:, 0], "boundaries": EDGES}, GOOD, "embeddings must be float32"),
        ({"embeddings": TABLE[:0], "boundaries": EDGES[:1]}, GOOD, "embeddings must be float32"),
        ({"embeddings": TABLE.astype("f8"), "boundaries": EDGES}, GOOD, "must be float32"),
        ({"embeddings": TABLE, "boundaries": EDGES.astype("i8")}, GOOD, "boundaries must be int32"),
        ({"embeddings": TABLE, "boundaries": EDGES[:2]}, GOOD, "one more than the buckets"),
        ({"embeddings": TABLE, "boundaries": EDGES + 1}, GOOD, "must rise from 0"),
        ({"embeddings": TABLE, "boundaries": EDGES * [0, 1, 0]}, GOOD, "boundaries must be int32"),
        ({"embeddings": TABLE, "boundaries": -EDGES}, GOOD, "must rise from 0"),
        ({"embeddings": NAN, "boundaries": EDGES}, GOOD, r"bucket \[1\] hold NaN"),
        ({"embeddings": TABLE}, GOOD, "instead of boundaries, embeddings"),
        ({"emb": TABLE, "boundaries": EDGES}, GOOD, "instead of boundaries, embeddings"),
        ({"emb_params": TABLE[0]}, None, "not a concept but an ordinary embedding"),
        ({"<cat>": TABLE[0, 0]}, {"format": "pt"}, "not a concept but an ordinary embedding"),
        ({"lora_unet_mid.alpha": TABLE[0]}, None, "not a concept but a LoRA"),
        ({f"layer.{i}": TABLE for i in range(9)}, {}, "not a concept file.*layer.0, .*, ..."),
        ({"embeddings": TABLE, "boundaries": EDGES}, None, "not a concept file"),
        (
            {"embeddings": TABLE, "boundaries": EDGES},
            {"format": "mrti-concept/2", "name": "jane"},
            "reads mrti-concept/1",
        ),
        (
            {"embeddings": TABLE, "boundaries": EDGES},
            {"format": "mrti-concept/1"},
            "has no name",
        ),
        (
            {"embeddings": TABLE, "boundaries": EDGES},
            GOOD | {"name": "../jane"},
            "can't name a concept",
        ),
        (
            {"embeddings": TABLE, "boundaries": EDGES},
            GOOD | {"num_train_timesteps": "1000"},
            "boundaries end at 10",
        ),
    ],
)
def test_wrong_contents(
    tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None, problem: str
) -> None:
    path = tmp_path / "wrong.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata)
    with pytest.raises(UserError, match=problem) as error:
        Concept.load(path)
    assert "\n" not in str(error.value) and "wrong.safetensors" in str(error.value)


def test_missing_and_damaged_files(tmp_path: Path, make_concept: Callable[..., Concept]) -> None:
    with pytest.raises(UserError, match="there is no concept file"):
        Concept.load(tmp_path / "missing.safetensors")
    with pytest.raises(UserError, match=r"holds no concept\.safetensors"):
        Concept.load(tmp_path)
    path = tmp_path / "concept.safetensors"
    make_concept().save(path)
    whole = path.read_bytes()
    for length in (0, 5, 8, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"damaged|truncated") as error:
            Concept.load(path)
        assert "\n" not in str(error.value)
    header = b"[" * 100_000
    for content in (
        pickle.dumps({"<jane>": [1.0]}),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        struct.pack("<Q", len(header)) + header,
        struct.pack("<Q", 4) + b"\xff\xff[]",
        struct.pack("<Q", 2) + b"[]",
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a safetensors file"):
            Concept.load(path)


def test_odd_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    tensors: dict[str, Any] = {
        "embeddings": {"dtype": "F32", "shape": [1, 1, 1], "data_offsets": [0, 4]},
        "boundaries": {"dtype": "I32", "shape": [2], "data_offsets": [4, 12]},
    }
    for header in (
        {"__metadata__": 3, **tensors},
        {"__metadata__": {"format": 3}, **tensors},
        {"__metadata__": GOOD, "embeddings": 1, "boundaries": 2},
        {"__metadata__": GOOD | {"name": 3}, **tensors},
        {"__metadata__": GOOD, **tensors, "boundaries": tensors["embeddings"] | {"dtype": "I32"}},
    ):
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
        with pytest.raises(UserError):
            Concept.load(path)


def test_wrong_arrays_and_metadata() -> None:
    with pytest.raises(UserError, match="infinity"):
        Concept("jane", TABLE * np.float32("inf"), EDGES)
    with pytest.raises(UserError, match="is reserved"):
        Concept("jane", TABLE, EDGES, {"name": "other"})
    with pytest.raises(UserError, match="one more than the buckets"):
        Concept("jane", TABLE, EDGES[:2])
