# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own files: what training leaves in them, what is damaged, what would run code."""

import collections
import contextlib
import os
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from pickles import Malicious, write_torch_zip

from mrti_jax.errors import UserError
from mrti_jax.models.stored import tensor as tensor_module
from mrti_jax.models.stored.torch_file import read_torch_file


@pytest.mark.torch
@pytest.mark.parametrize("piece_bytes", [1, 60, 2**20])
def test_pytorch_views_and_leftovers_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(tensor_module, "_PIECE_BYTES", piece_bytes)
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "transposed": base.T,
        "strided": base[1:, ::2],
        "parameter": torch.nn.Parameter(base[2]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    content = {
        "state_dict": state,
        "global_step": 875000,
        "loss": np.float32(1.5),
        "optimizer_states": [{"state": {0: {"exp_avg": base}}}],
        "other": torch.device("cpu"),
    }
    torch.save(content, tmp_path / "model.ckpt")
    tensors, others = read_torch_file(epath.Path(tmp_path / "model.ckpt"))
    assert others["global_step"] == 875000
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        expected = state[name].detach().numpy()
        np.testing.assert_array_equal(tensor.read(), expected)
        if expected.ndim == 2 and len(expected):
            part = (slice(1, 3), slice(1, None))
            np.testing.assert_array_equal(tensor.read(part), expected[part])
            cast = tensor.read(part[:1], np.dtype(np.float16))
            assert cast.dtype == np.float16
            np.testing.assert_array_equal(cast, expected[part[:1]].astype(np.float16))


def malicious(target: Path) -> dict[str, Any]:
    command = f"touch {target}"
    return {
        "system": Malicious(os.system, command),
        "eval": Malicious(eval, f"__import__('pathlib').Path({str(target)!r}).touch()"),
        "getattr": Malicious(getattr, Malicious(__import__, "os"), "system"),
        "path": Malicious(Path.touch, target),
    }


@pytest.mark.parametrize("kind", ["system", "eval", "getattr", "path"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, kind: str, protocol: int) -> None:
    target = tmp_path / "was-run"
    pickled = pickle.dumps({"state_dict": malicious(target)[kind]}, protocol)
    # It would run its code in anything that trusts it.
    pickle.loads(pickled)
    assert target.exists() or kind == "getattr"
    target.unlink(missing_ok=True)
    path = write_torch_zip(tmp_path / "model.ckpt", pickled)
    with pytest.raises(UserError, match="was not read, and nothing in it was run") as caught:
        read_torch_file(epath.Path(path))
    assert "\n" not in str(caught.value)
    assert not target.exists()


LEFTOVERS = {
    "set": {1, 2},
    "frozenset": frozenset([1]),
    "bytes": b"abc",
    "bytearray": bytearray(b"abc"),
    "complex": 1j,
    "counter": collections.Counter("aab"),
    "defaultdict": [collections.defaultdict(kind, {"a": 1}) for kind in (int, list, str)],
    "numpy": [np.ones(3), np.array([{}, None]), np.float32(1), np.dtype([("a", "<f4")])],
}


@pytest.mark.parametrize("kind", LEFTOVERS)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_leftovers_of_training_are_read_over(tmp_path: Path, kind: str, protocol: int) -> None:
    content = {"state_dict": {}, "left": [LEFTOVERS[kind]], "epoch": 3}
    path = write_torch_zip(tmp_path / "a.ckpt", pickle.dumps(content, protocol))
    others = read_torch_file(epath.Path(path))[1]
    assert others == {"state_dict": None, "left": None, "epoch": 3}


@pytest.mark.parametrize(
    "left",
    [
        b"ctorch\nSize\n(K\x01K\x02t\x85R",
        b"ctorch\nint64\n",
        b"ctorch\nfloat8_e4m3fn\n",
        b"ctorch.serialization\n_get_layout\nX\x0d\0\0\0torch.strided\x85R",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01tb",
        b"c__builtin__\nset\n]\x85R(K\x01K\x02\x90",
        b"c__builtin__\nlist\n)R(K\x01K\x02eK\x03a",
        b"c__builtin__\ndict\n)R(K\x01K\x02uK\x01K\x02s",
    ],
    ids=["size", "int64", "float8", "layout", "numpy1", "add", "append", "setitem"],
)
def test_leftovers_as_pytorch_writes_them(tmp_path: Path, left: bytes) -> None:
    path = write_torch_zip(tmp_path / "a.ckpt", b"\x80\x02}(X\x01\0\0\0a" + left + b"u.")
    assert read_torch_file(epath.Path(path)) == ({}, {"a": None})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pickle.dumps({"a": 1}, 2), "format of PyTorch before 1.6"),
        (pickle.dumps(Malicious(os.system, "false"), 2), "format of PyTorch before 1.6"),
        (b"PK\x03\x04" + bytes(100), "truncated"),
        (b"version https://git-lfs.github.com/spec/v1", "not a PyTorch file"),
    ],
    ids=["legacy", "malicious-legacy", "truncated", "pointer"],
)
def test_other_files_are_not_unpickled(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_torch_file(epath.Path(path))


def test_encrypted_pytorch_file(tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.ckpt", pickle.dumps({}, 2))
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1  # the flags in the zip's directory
    path.write_bytes(content)
    with pytest.raises(UserError, match="compressed or encrypted"):
        read_torch_file(epath.Path(path))


@pytest.mark.parametrize(
    "changes",
    [{6: 0xFF}, {9: 0x08, 46: 0xFF}, {28: 0xFF}, {30: 0xFF}, {43: 0x80}],
    ids=["version", "name-not-utf-8", "name-length", "extra-length", "place"],
)
def test_damaged_directory_of_a_pytorch_file(tmp_path: Path, changes: dict[int, int]) -> None:
    path = write_torch_zip(tmp_path / "a.ckpt", pickle.dumps({}, 2))
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    for at, value in changes.items():
        content[place + at] = value
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_torch_file(epath.Path(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def pickled_tensor(
    size: tuple[int, ...],
    strides: tuple[int, ...] = (1,),
    first: bytes = b"K\0",
    storage: bytes = b"",
    state: bytes = b"",
) -> bytes:
    """A state dict with the tensor `a`; `state`: its attributes, as a pickle sets them."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"I%d\n" % n for n in values) + b"t"

    # ('storage', torch.FloatStorage, '0', 'cpu', 4), as a persistent id.
    storage = storage or (
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
    )
    arguments = b"(" + storage + first + numbers(size) + numbers(strides) + b"\x89}t"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    return b"\x80\x02}X\x01\0\0\0a" + rebuilt + state + b"s."


def test_damaged_pytorch_files(tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.bin", pickled_tensor((4,)))
    assert read_torch_file(epath.Path(path))[0]["a"].read().tolist() == [0.0] * 4
    for pickled, told in [
        (pickled_tensor((5,)), "larger than its storage"),
        (pickled_tensor((2**30,), (0,)), "larger than its storage"),
        (pickled_tensor((3, 2**20), (1, 0)), "larger than its storage"),
        (pickled_tensor((0, 2**70), (1, 1)), "ends in ValueError"),
        (pickled_tensor((1,), (2**70,)), "ends in ValueError"),
        (pickled_tensor((2, 2)), "ends in ValueError"),
        (pickled_tensor((-1,)), "ends in ValueError"),
        (pickled_tensor((4,), first=b"G" + bytes(8)), "ends in Type"),
        (pickled_tensor((4,), storage=b"(K\x04K\0K\x10t"), "ends in Type"),
        (pickled_tensor((4,))[:-3], "ends in"),
        (b"\x80\x02K\x01.", "holds no state dict, but int"),
    ]:
        write_torch_zip(path, pickled)
        with pytest.raises(UserError, match=told):
            read_torch_file(epath.Path(path))


def test_a_storage_that_is_larger_than_the_file(tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.bin", pickled_tensor((2**28 - 1,)))
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\x01\x02", 0, content.rfind(b"archive/data/0"))
    content[entry + 20 : entry + 28] = (2**30).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(UserError, match="'archive/data/0' is larger than the file"):
        read_torch_file(epath.Path(path))


@pytest.mark.parametrize(
    "state",
    [
        {"offset": -100},
        {"shape": (2**46,)},
        {"strides": (0,), "shape": (2**46,)},
        {"path": "/etc/passwd"},
        (None, {"dtype": "V999", "offset": 2**62}),
    ],
    ids=["offset", "shape", "strides", "path", "slots"],
)
def test_a_pickle_cannot_change_a_tensor_that_was_checked(tmp_path: Path, state: object) -> None:
    attributes = pickle.dumps(state, 2)[2:-1] + b"b"
    path = write_torch_zip(tmp_path / "a.bin", pickled_tensor((4,), state=attributes))
    tensor = read_torch_file(epath.Path(path))[0]["a"]
    assert (tensor.path, tensor.shape, tensor.strides) == (epath.Path(path), (4,), (1,))
    assert tensor.read().tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}r" + (2**23).to_bytes(4, "little") + b".",
        b"\x80\x02}p%d\n." % 2**23,
        b"\x80\x05\x96" + (2**27).to_bytes(8, "little") + b"}.",
        b"\x80\x05X" + (2**27).to_bytes(4, "little") + b"}.",
        b"\x80\x05\x95" + (2**27).to_bytes(8, "little") + b"}.",
    ],
    ids=["memo", "text-memo", "bytearray", "text", "frame"],
)
def test_a_small_pickle_takes_little_memory(tmp_path: Path, pickled: bytes) -> None:
    path = epath.Path(write_torch_zip(tmp_path / "a.bin", pickled))
    tracemalloc.start()
    try:
        with contextlib.suppress(UserError):
            assert read_torch_file(path) == ({}, {})
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("code", [b"}(%s u", b"(%s d", b"ccollections\nOrderedDict\n](%s e\x85R"])
def test_keys_that_are_all_alike_take_no_time(tmp_path: Path, code: bytes) -> None:
    """As keys, multiples of 2**61 - 1 have one hash: each would be compared with all before it."""
    number = b"\x8a\x0a%s"  # of ten bytes
    keys = [number % (i * (2**61 - 1)).to_bytes(10, "little") for i in range(20_000)]
    pair = b"%s\x86" if b"OrderedDict" in code else b"%s"
    items = b"".join(pair % (key + b"N") for key in keys)
    path = epath.Path(
        write_torch_zip(tmp_path / "a.bin", b"\x80\x02" + code.replace(b" ", b"") % items + b".")
    )
    start = time.process_time()
    assert read_torch_file(path) == ({}, {})
    assert time.process_time() - start < 3  # it took ten


DEPTH = 32


def nested_tuple() -> bytes:
    """The instructions for a tuple of 2**DEPTH empty ones."""
    return b")" + DEPTH * (pickle.DUP + pickle.TUPLE2)


def equal_frozensets() -> bytes:
    """The instructions for two equal sets that take 2**DEPTH comparisons."""

    def nested() -> frozenset:
        inner = frozenset([1])
        for _ in range(DEPTH):
            inner = frozenset([inner, frozenset([inner])])
        return inner

    pickled = pickle.dumps((nested(), nested()), 4)
    ending = pickle.TUPLE2 + pickle.MEMOIZE + pickle.STOP
    assert pickled[2:3] == pickle.FRAME and pickled.endswith(ending)
    return pickled[11 : -len(ending)]


@pytest.mark.parametrize(
    "left",
    [
        b"}" + nested_tuple() + b"K\x01s",
        b"}(" + nested_tuple() + b"K\x01u",
        b"(" + nested_tuple() + b"K\x01d",
        b"ccollections\nOrderedDict\n]](" + nested_tuple() + b"K\x01ea\x85R",
        pickle.EMPTY_SET + b"(" + nested_tuple() + pickle.ADDITEMS,
        b"(" + nested_tuple() + pickle.FROZENSET,
        b"(" + equal_frozensets() + pickle.FROZENSET,
    ],
    ids=["setitem", "setitems", "dict", "ordered", "set", "frozenset", "equal"],
)
def test_a_small_pickle_takes_little_time(tmp_path: Path, left: bytes) -> None:
    path = write_torch_zip(tmp_path / "a.ckpt", b"\x80\x04}(X\x01\0\0\0a" + left + b"u.")
    start = time.process_time()
    assert read_torch_file(epath.Path(path)) == ({}, {"a": None})
    assert time.process_time() - start < 2  # hashing or comparing it all takes minutes
