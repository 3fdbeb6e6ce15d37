# SPDX-License-Identifier: Apache-2.0
"""Damaged safetensors are reported in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

from mrti_jax.errors import UserError
from mrti_jax.models.stored.safetensors_file import read_safetensors


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float16)}, path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])

    def with_header(header: object) -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + size :]

    def with_a(**changes: object) -> bytes:
        return with_header({**header, "a": {**header["a"], **changes}})

    for damaged, told in [
        (content[:-1], "truncated"),
        (content[: size // 2], "truncated"),
        (content[:5], "not a safetensors file"),
        (b"", "not a safetensors file"),
        (b"<html>" + bytes(500), "not a safetensors file"),
        (with_header([1]), "not a safetensors file"),
        (with_a(data_offsets=[-48, 0]), "not a safetensors file"),
        (with_a(data_offsets=[0.0, 48.0]), "not a safetensors file"),
        (with_a(data_offsets=[0, 48, 48]), "not a safetensors file"),
        (with_a(data_offsets=[48, 0]), "not a safetensors file"),
        (with_a(shape=[3, 5]), "not a safetensors file"),
        (with_a(shape=[-3, -4]), "not a safetensors file"),
        (with_a(dtype="U32"), "holds tensors of dtype U32"),
        (with_a(shape=[12.7]), "not a safetensors file"),
        (with_a(shape=["12"]), "not a safetensors file"),
        (with_a(shape="", data_offsets=[0, 4]), "not a safetensors file"),
        (with_a(shape="26"), "not a safetensors file"),
        (with_a(shape=[True, 12]), "not a safetensors file"),
        (with_a(shape=[0, 2**70], data_offsets=[0, 0]), "not a safetensors file"),
        (with_header({**header, "__metadata__": ["a"]}), "not a safetensors file"),
        (with_header({**header, "__metadata__": {"a": 1}}), "not a safetensors file"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=told):
            read_safetensors(epath.Path(path))


def test_damaged_safetensors_under_python_o(tmp_path: Path) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    read = (
        "import sys; from etils import epath; "
        "from mrti_jax.models.stored.safetensors_file import read_safetensors; "
        "read_safetensors(epath.Path(sys.argv[1]))"
    )
    run = [sys.executable, "-O", "-c", read, str(path)]
    assert b"is not a safetensors file" in subprocess.run(run, capture_output=True).stderr
