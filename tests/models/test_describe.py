# SPDX-License-Identifier: Apache-2.0
"""What `python -m mrti_jax.models` says about a model."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mrti_jax.models import describe
from mrti_jax.models.__main__ import main
from mrti_jax.models.frozen import without_weights
from mrti_jax.models.memory import kept_bytes, sampling_bytes, training_bytes
from mrti_jax.models.parts import build_part
from mrti_jax.models.source import ModelSource
from mrti_jax.models.stored.find import open_model
from mrti_jax.models.unet import UNetConfig
from mrti_jax.models.vae import VAEConfig

SD15 = UNetConfig(cross_attention_dim=768)


def told(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 0) -> str:
    assert main(argv) == status
    return capsys.readouterr().out


@pytest.fixture
def no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about training, as most of the time goes to tracing the gradient."""
    monkeypatch.setattr(describe, "kept_bytes", lambda *_: 0)


def test_a_whole_model(capsys: pytest.CaptureFixture[str], tiny_v_folder: Path) -> None:
    text = told(capsys, str(tiny_v_folder))
    assert "predicts v_prediction; made for 16 x 16 px" in text
    assert "tensors: all present, none unused" in text
    modules = open_model(ModelSource(path=str(tiny_v_folder))).modules
    for part, module in modules.items():
        size = sum(tensor.size for tensor in module.tensors.values())
        assert re.search(rf"^{part} +{size / 1e6:.1f} M .* float32$", text, re.MULTILINE)


@pytest.mark.parametrize("flags", [(), ("--help",)], ids=["report", "help"])
def test_a_reader_that_has_read_enough_is_no_error(
    tiny_folder: Path, flags: tuple[str, ...]
) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mrti_jax.models", str(tiny_folder), *flags]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_what_is_wrong_with_a_model(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["extra.weight"] = np.zeros(3, np.float32)
    del tensors["conv_in.bias"]
    tensors["conv_out.bias"] = np.zeros(5, np.float16)
    save_file(tensors, path)
    text = told(capsys, str(copy), "--prediction-type", "v_prediction", status=2)
    assert "predicts v_prediction" in text
    assert "WRONG: unet: tensor 'conv_in.bias' is missing" in text
    assert "WRONG: unet: tensor 'conv_out.bias' has shape [5], but the config asks for [4]" in text
    assert "WRONG: unet: 1 tensors are not part of this module: extra.weight" in text
    assert "float32, float16" in text


@pytest.mark.usefixtures("no_gradient")
def test_no_more_than_three_lines_on_a_part(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: t for name, t in tensors.items() if "decoder" not in name}, path)
    wrong = [line for line in told(capsys, str(copy), status=2).splitlines() if "WRONG" in line]
    missing = sum("decoder" in name for name in tensors)
    assert len(wrong) == 4 and wrong[3] == f"WRONG: vae: {missing - 3} more such tensors"


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "tokenizer/merges.txt").unlink(), "tokenizer: .*: merges.txt missing"),
        (lambda f: (f / "tokenizer/vocab.json").write_text("{"), "tokenizer: .* can't be read"),
        (
            lambda f: shutil.copytree(f / "text_encoder", f / "text_encoder_2"),
            "tokenizer_2: .* holds no tokenizer: vocab.json and merges.txt missing",
        ),
        (
            lambda f: edit_json(f / "scheduler/scheduler_config.json", prediction_type="x0"),
            "scheduler: scheduler config: prediction_type is 'x0'",
        ),
        (
            lambda f: edit_json(f / "text_encoder/config.json", vocab_size=600),
            "tokenizer: the tokenizer in .* has 1359 tokens, the text encoder has 600",
        ),
    ],
    ids=["merges", "vocab", "tokenizer-2", "prediction-type", "tokens"],
)
@pytest.mark.usefixtures("no_gradient")
def test_what_beside_the_weights_is_wrong(
    capsys: pytest.CaptureFixture[str], copy: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(copy)
    assert re.search(f"^WRONG: {said}", told(capsys, str(copy), status=2), re.MULTILINE)


@pytest.mark.usefixtures("no_gradient")
def test_a_sampler_that_we_lack_is_only_told(
    capsys: pytest.CaptureFixture[str], copy: Path
) -> None:
    edit_json(copy / "scheduler/scheduler_config.json", _class_name="UniPCMultistepScheduler")
    text = told(capsys, str(copy))
    assert "note: its own sampler can't be used, so ddim is: " in text
    assert "UniPCMultistepScheduler" in text and "tensors: all present" in text


@pytest.mark.usefixtures("no_gradient")
def test_a_tokenizer_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path
) -> None:
    text = told(capsys, str(tiny_folder), "--tokenizer", "/nowhere/x", status=2)
    assert "WRONG: tokenizer: /nowhere/x holds no tokenizer" in text


@pytest.mark.usefixtures("no_gradient")
def test_parts_of_different_models(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    edit_json(copy / "unet" / "config.json", cross_attention_dim=56)
    text = told(capsys, str(copy), status=2)
    assert (
        "WRONG: widths: its U-Net takes text states of width 56, but its text encoder returns 32"
        in text
    )


@pytest.mark.usefixtures("no_gradient")
def test_leftovers_are_unused(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    path = copy / "text_encoder" / "model.safetensors"
    left = {"text_projection.weight": np.ones((3, 3)), "logit_scale": np.ones(())}
    save_file(load_file(path) | left, path)
    (copy / "safety_checker").mkdir()
    assert (
        "unused: safety_checker/, text_encoder: logit_scale, "
        "text_encoder: text_projection.weight" in told(capsys, str(copy))
    )


@pytest.mark.usefixtures("no_gradient")
def test_leftovers_of_training_are_unused(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    for file, left in {
        "text_encoder/model.safetensors": "vision_model.post_layernorm.bias",
        "vae/diffusion_pytorch_model.safetensors": "model_ema.decay",
    }.items():
        save_file(load_file(copy / file) | {left: np.ones(3)}, copy / file)
    assert "unused: text_encoder: vision_model.post_layernorm.bias, vae: model_ema.decay" in told(
        capsys, str(copy)
    )


def test_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_file({"lora_unet_x.lora_up.weight": np.ones((3, 4))}, tmp_path / "a.safetensors")
    assert main([str(tmp_path / "a.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is a LoRA" in error


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "it holds no unet/"),
        ({"model_index.json": {"_class_name": "FluxPipeline"}}, "is Flux"),
        (
            {"model_index.json": {"_class_name": "StableDiffusion3Pipeline"}},
            "is Stable Diffusion 3",
        ),
        ({"model_index.json": {"_class_name": ["a"]}}, "it holds no unet/"),
        ({"config.json": {"_class_name": "ControlNetModel"}}, "is a ControlNetModel"),
        (
            {"model_index.json": {"_class_name": "StableDiffusionXLPipeline"}},
            "lacks its unet/: download or copy it again",
        ),
        (
            {"transformer/config.json": {"_class_name": "SD3Transformer2DModel"}},
            "is Stable Diffusion 3",
        ),
        (
            {"unet/config.json": {"_class_name": "UNetSpatioTemporalConditionModel"}},
            "is Stable Video Diffusion",
        ),
        (
            {
                "unet/config.json": {"class_embed_type": "projection"},
                "text_encoder/config.json": {},
                "vae/config.json": {},
            },
            "is an unCLIP model",
        ),
        ({"unet/config.json": {}, "text_encoder_2/config.json": {}}, "is the refiner"),
        ({"unet/config.json": {}}, "text_encoder/config.json is missing"),
    ],
)
def test_folders_of_other_models(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    files: dict[str, dict[str, Any]],
    said: str,
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    assert main([str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "itemsize"), [("bfloat16", 2), ("float32", 4)])
def test_memory_of_stable_diffusion_15(dtype: str, itemsize: int) -> None:
    """Of the logits of 8 heads over 4096 latents and two prompts, 1 GiB in float32, half a GiB
    exists at a time. The gradient keeps of each of the five transformer blocks at 64 x 64 latents
    at least queries, keys, values, the output and the feed-forward's gated layer: 12 times as many
    numbers as it has channels."""
    block = 4 * 128 * 2**20
    drawing = sampling_bytes(SD15, VAEConfig(), 0, itemsize, itemsize)
    assert block < drawing < 3 * block
    assert sampling_bytes(SD15, VAEConfig(), 100, itemsize, itemsize) == drawing + 100
    unet = without_weights(SD15, partial(build_part, "unet", SD15, dtype))
    kept = kept_bytes(unet, (64, 64, 4), 77)
    least = 5 * 12 * 4096 * 320 * itemsize
    assert least < kept < 5 * least
    assert training_bytes(SD15, kept, 100) == 100 + kept + 3 * block


@pytest.mark.usefixtures("no_gradient")
def test_a_vae_that_overflows_is_counted_in_float32(
    capsys: pytest.CaptureFixture[str], tiny_xl_folder: Path, tmp_path: Path
) -> None:
    """In float32 it needs no more than before; in bfloat16 what it needs there. Only of XL."""

    def to_draw(folder: Path) -> list[float]:
        line = re.search(r"to draw .* px +(\d+) MB +(\d+) MB", told(capsys, str(folder)))
        assert line
        return [float(size) for size in line.groups()]

    folder = Path(shutil.copytree(tiny_xl_folder, tmp_path / "copy"))
    after = to_draw(folder)
    edit_json(folder / "vae" / "config.json", force_upcast=False)
    before = to_draw(folder)
    assert after[1] == before[1] and before[0] < after[0] < after[1]
