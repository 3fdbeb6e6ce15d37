# SPDX-License-Identifier: Apache-2.0
"""The reader of PyTorch's files, on damaged and hostile ones: a result or a UserError, soon.

More than 30,000 files with `FUZZ=full`.
"""

import io
import pickletools
import zipfile
from pathlib import Path

import numpy as np
from etils import epath
from fuzz import cases, damaged, result
from hypothesis import strategies as st

from mrti_jax.models.stored.tensor_file import read_tensor_file


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
