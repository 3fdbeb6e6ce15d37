# SPDX-License-Identifier: Apache-2.0
"""A model is the same from every layout of its files; what is wrong is reported in one line."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from etils import epath
from pickles import Malicious, write_torch_zip
from safetensors.numpy import load_file, save, save_file

from mrti_jax.errors import UserError
from mrti_jax.models.source import ModelSource
from mrti_jax.models.stored.find import open_model
from mrti_jax.models.stored.model import StoredModel
from mrti_jax.models.stored.tensor_file import read_tensor_file

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


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


def test_parts_without_the_variant_are_taken_plain_and_told(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_as(".fp16.safetensors", np.float16)(path.parent, path.stem, load_file(path))
    with pytest.warns(UserWarning, match="no variant 'fp16' of text_encoder, vae"):
        model = open_model(ModelSource(path=str(copy), variant="fp16"))
    assert model.modules["unet"].tensors["conv_in.bias"].dtype == np.float16
    assert model.modules["vae"].tensors["quant_conv.bias"].dtype == np.float32


def test_unknown_variant_is_told(copy: Path) -> None:
    assert "holds no variant 'fp8' of the weights" in error_of(
        ModelSource(path=str(copy), variant="fp8")
    )
    edit_weights(copy, save_as(".fp16.safetensors", np.float16))
    assert "use --variant fp16" in error_of(ModelSource(path=str(copy)))


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_no_model(copy: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    assert "is a pipe or a device" in error_of(ModelSource(path=str(pipe)))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    assert "is a pipe or a device" in error_of(ModelSource(path=str(copy)))


def test_malicious_pickle_in_a_folder(copy: Path, tmp_path: Path) -> None:
    edit_weights(copy, lambda *_: None)
    pickled = pickle.dumps(Malicious(os.system, f"touch {tmp_path}/was-run"))
    write_torch_zip(copy / "text_encoder" / "pytorch_model.bin", pickled)
    assert "was not read" in error_of(ModelSource(path=str(copy)))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "A.SAFETENSORS", "a"])
def test_a_file_is_what_it_holds_not_what_it_is_called(tmp_path: Path, name: str) -> None:
    path = epath.Path(tmp_path / name)
    path.write_bytes(save({"a": np.arange(3.0)}))
    assert read_tensor_file(path)[0]["a"].read().tolist() == [0, 1, 2]
    write_torch_zip(Path(path), pickle.dumps({"global_step": 5}, 2))
    assert read_tensor_file(path) == ({}, {"global_step": 5})
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="is a Git LFS pointer"):
        read_tensor_file(path)


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_what_no_unet_predicts(layout: str, tiny_folder: Path, tmp_path: Path) -> None:
    path = tiny_folder if layout == "folder" else tmp_path / "model.safetensors"
    if layout == "file":
        save_file({"model.diffusion_model.input_blocks.0.0.weight": np.zeros(1)}, path)
    source = ModelSource(path=str(path))
    object.__setattr__(source, "prediction_type", "v")  # past the check of types in the tests
    with pytest.raises(UserError, match=r"prediction_type is 'v', .* one of epsilon, v_prediction"):
        open_model(source)
