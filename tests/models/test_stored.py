# SPDX-License-Identifier: Apache-2.0
"""A model comes out the same from every layout of its files; what is wrong is told in one line."""

import collections
import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save, save_file

from mrti_jax.errors import UserError
from mrti_jax.models.stored import tensor as tensor_module
from mrti_jax.models.stored.find import open_model
from mrti_jax.models.stored.model import ModelSource, StoredModel
from mrti_jax.models.stored.safetensors_file import read_safetensors
from mrti_jax.models.stored.tensor_file import read_tensor_file
from mrti_jax.models.stored.torch_file import read_torch_file

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def read_all(model: StoredModel) -> dict[str, dict[str, np.ndarray]]:
    return {
        part: {name: tensor.read() for name, tensor in module.tensors.items()}
        for part, module in model.modules.items()
    }


def assert_same(model: StoredModel, folder: Path, dtype: Any = np.float32) -> None:
    expected = {
        part: {
            name: value.astype(dtype)
            for name, value in load_file(folder / part / f"{stem}.safetensors").items()
        }
        for part, stem in WEIGHTS.items()
    }
    np.testing.assert_equal(read_all(model), expected)


def error_of(source: ModelSource) -> str:
    with pytest.raises(UserError) as caught:
        open_model(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_weights(folder: Path, edit: Callable[[Path, str, dict[str, np.ndarray]], object]) -> None:
    """Calls `edit(part's folder, stem, tensors)` for each part, whose file is gone by then."""
    for part, stem in WEIGHTS.items():
        path = folder / part / f"{stem}.safetensors"
        tensors = load_file(path)
        path.unlink()
        edit(folder / part, stem, tensors)


def shards(tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    names = sorted(tensors)
    half = len(names) // 2
    return {n: tensors[n] for n in names[:half]}, {n: tensors[n] for n in names[half:]}


def save_sharded(folder: Path, stem: str, tensors: dict[str, np.ndarray]) -> None:
    places = {}
    for i, part in enumerate(shards(tensors)):
        name = f"{stem}-0000{i + 1}-of-00002.safetensors"
        save_file(part, folder / name)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def save_sharded_fp16(folder: Path, stem: str, tensors: dict[str, np.ndarray]) -> None:
    places = {}
    for i, part in enumerate(shards(tensors)):
        name = f"{stem}.fp16-0000{i + 1}-of-00002.safetensors"
        save_file({name: value.astype(np.float16) for name, value in part.items()}, folder / name)
        places |= dict.fromkeys(part, name)
    index = json.dumps({"weight_map": places})
    (folder / f"{stem}.safetensors.index.fp16.json").write_text(index)


def save_as(suffix: str, dtype: Any) -> Callable[[Path, str, dict[str, np.ndarray]], None]:
    def save(folder: Path, stem: str, tensors: dict[str, np.ndarray]) -> None:
        cast = {name: value.astype(dtype) for name, value in tensors.items()}
        save_file(cast, folder / f"{stem}{suffix}")

    return save


def save_old_names(folder: Path, stem: str, tensors: dict[str, np.ndarray]) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in tensors.items():
        if folder.name == "vae" and ".attentions." in name:
            for new, before in old.items():
                name = name.replace(f".{new}.", f".{before}.")
        renamed[f"text_model.{name}" if folder.name == "text_encoder" else name] = value
    if folder.name == "text_encoder":
        renamed["text_model.embeddings.position_ids"] = np.arange(77)[None]
    assert renamed.keys() != tensors.keys() or folder.name == "unet"
    save_file(renamed, folder / f"{stem}.safetensors")


@pytest.mark.parametrize(
    ("save", "variant", "dtype"),
    [
        (save_sharded, None, np.float32),
        (save_sharded_fp16, "fp16", np.float16),
        (save_as(".fp16.safetensors", np.float16), "fp16", np.float16),
        (save_as(".safetensors", ml_dtypes.bfloat16), None, ml_dtypes.bfloat16),
        (save_old_names, None, np.float32),
    ],
    ids=["sharded", "sharded-fp16", "fp16", "bf16", "old-names"],
)
def test_layouts_of_a_folder(
    copy: Path, tiny_folder: Path, save: Any, variant: str | None, dtype: Any
) -> None:
    edit_weights(copy, save)
    model = open_model(ModelSource(path=str(copy), variant=variant))
    assert_same(model, tiny_folder, dtype)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_pytorch_files(copy: Path, tiny_folder: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")

    def save(folder: Path, stem: str, tensors: dict[str, np.ndarray]) -> None:
        state = torch.nn.Module().state_dict()  # an OrderedDict with attributes
        for name, value in tensors.items():
            state[name] = torch.tensor(value).to(getattr(torch, dtype))
        name = "pytorch_model.bin" if stem == "model" else f"{stem}.bin"
        torch.save(state, folder / name)

    edit_weights(copy, save)
    assert_same(open_model(ModelSource(path=str(copy))), tiny_folder, dtype)


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


def test_parts_without_the_variant_are_taken_plain_and_told(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_as(".fp16.safetensors", np.float16)(path.parent, path.stem, load_file(path))
    with pytest.warns(UserWarning, match="text_encoder, vae without variant 'fp16'"):
        model = open_model(ModelSource(path=str(copy), variant="fp16"))
    assert model.modules["unet"].tensors["conv_in.bias"].dtype == np.float16
    assert model.modules["vae"].tensors["quant_conv.bias"].dtype == np.float32


def test_unknown_variant_is_told(copy: Path) -> None:
    assert "holds no variant 'fp8' of the weights" in error_of(
        ModelSource(path=str(copy), variant="fp8")
    )
    edit_weights(copy, save_as(".fp16.safetensors", np.float16))
    assert "there is the variant fp16 (--variant)" in error_of(ModelSource(path=str(copy)))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda unet: next(unet.glob("*-00002-of-*")).unlink(), "names the shard"),
        (
            lambda unet: next(unet.glob("*.index.json")).write_text('{"weight_map": {"a": 5}}'),
            "has no weight_map",
        ),
        (
            lambda unet: next(unet.glob("*.index.json")).write_text(
                '{"weight_map": {"a": "../../secret.safetensors"}}'
            ),
            "names the shard ../../secret.safetensors, which is missing",
        ),
        (lambda unet: next(unet.glob("*.index.json")).write_text("{"), "is not JSON"),
        (lambda unet: (unet / "config.json").write_bytes(b"\xff\xfe{"), "is not JSON"),
    ],
    ids=["shard", "index", "way-out", "index-json", "config-json"],
)
def test_damaged_folder(copy: Path, damage: Callable[[Path], object], told: str) -> None:
    edit_weights(copy, save_sharded)
    damage(copy / "unet")
    assert told in error_of(ModelSource(path=str(copy)))


@pytest.mark.parametrize(
    ("index", "unet", "told"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, {}, "vae/config.json is missing"),
        ({}, {}, "vae/config.json is missing"),
        ({"_class_name": "IFPipeline"}, {}, "is an IFPipeline: a whole"),
        ({}, {"_class_name": "UNetSpatioTemporalConditionModel"}, "is Stable Video Diffusion"),
    ],
)
def test_folder_without_a_part(
    copy: Path, index: dict[str, str], unet: dict[str, str], told: str
) -> None:
    shutil.rmtree(copy / "vae")
    (copy / "model_index.json").write_text(json.dumps(index))
    (copy / "unet" / "config.json").write_text(json.dumps(unet))
    assert told in error_of(ModelSource(path=str(copy)))


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_no_model(copy: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    assert "is a pipe or a device" in error_of(ModelSource(path=str(pipe)))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    assert "is a pipe or a device" in error_of(ModelSource(path=str(copy)))


class Malicious:
    """Its pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def write_torch_zip(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", "3\n")
    return path


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


def test_malicious_pickle_in_a_folder(copy: Path, tmp_path: Path) -> None:
    edit_weights(copy, lambda *_: None)
    pickled = pickle.dumps(Malicious(os.system, f"touch {tmp_path}/was-run"))
    write_torch_zip(copy / "text_encoder" / "pytorch_model.bin", pickled)
    assert "was not read" in error_of(ModelSource(path=str(copy)))
    assert not (tmp_path / "was-run").exists()


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


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "A.SAFETENSORS", "a"])
def test_a_file_is_what_it_holds_not_what_it_is_called(tmp_path: Path, name: str) -> None:
    path = epath.Path(tmp_path / name)
    path.write_bytes(save({"a": np.arange(3.0)}))
    assert read_tensor_file(path)[0]["a"].read().tolist() == [0, 1, 2]
    write_torch_zip(Path(path), pickle.dumps({"global_step": 5}, 2))
    assert read_tensor_file(path) == ({}, {"global_step": 5})
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="is a pointer of Git LFS"):
        read_tensor_file(path)


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
