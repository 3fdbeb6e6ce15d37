# SPDX-License-Identifier: Apache-2.0
"""Writing a whole Stable Diffusion as a diffusers folder, which PyTorch's diffusers loads too."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from mrti_jax.files import to_path
from mrti_jax.models.checkpoint import save_module
from mrti_jax.models.clip import CLIPTextModel
from mrti_jax.models.frozen import Frozen, Params
from mrti_jax.models.stored.folder import TOKENIZER_FILES
from mrti_jax.models.tokenizer import load_tokenizer

# The release of diffusers whose files these are; readers only show it.
DIFFUSERS_VERSION = "0.42.1"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_pipeline(
    folder: epath.PathLike,
    tokenizer_folders: Sequence[epath.PathLike],
    text_models: Sequence[Frozen[CLIPTextModel]],
    unet: Frozen,
    vae: Frozen,
    scheduler_config: Mapping[str, Any],
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> None:
    """Writes `folder` so that `StableDiffusion.load` and diffusers' pipelines read it.

    Args:
        tokenizer_folders: of each text model; the files are copied. May be the folder's own.
        text_models: one, or SDXL's two.
        scheduler_config: the JSON object of `scheduler_config.json`, `_class_name` included.
        dtype: of the weights in the files.

    Raises:
        UserError: a folder holds no tokenizer.
    """
    target = to_path(folder)
    suffixes = ("", "_2")[: len(text_models)]
    for suffix, source, model in zip(suffixes, tokenizer_folders, text_models, strict=True):
        _save_text_model(target, suffix, to_path(source), model, dtype)

    save_module(unet.params, target / "unet" / WEIGHTS, dtype)
    _write_json(target / "unet" / "config.json", unet_config(unet.config))

    save_module(vae.params, target / "vae" / WEIGHTS, dtype)
    sample_size = unet.config.sample_size * vae.config.downscale
    _write_json(target / "vae" / "config.json", vae_config(vae.config, sample_size))

    (target / "scheduler").mkdir(parents=True, exist_ok=True)
    _write_json(target / "scheduler" / "scheduler_config.json", dict(scheduler_config))
    _write_json(target / "model_index.json", model_index(scheduler_config["_class_name"], suffixes))


def _save_text_model(
    target: epath.Path,
    suffix: str,
    source: epath.Path,
    model: Frozen[CLIPTextModel],
    dtype: jax.typing.DTypeLike,
) -> None:
    tokenizer = load_tokenizer(source)
    copy = target / f"tokenizer{suffix}"
    if source != copy:
        copy.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if (source / name).exists():
                (copy / name).write_bytes((source / name).read_bytes())

    part = target / f"text_encoder{suffix}"
    save_module(text_model_params(model.params), part / "model.safetensors", dtype)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos")}
    pad = ids["eos_token_id"] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    config = text_encoder_config(model) | ids | {"pad_token_id": pad}
    _write_json(part / "config.json", config | {"dtype": jnp.dtype(dtype).name})


def text_model_params(params: Params) -> Params:
    """A text model's weights as transformers nests them: with a projection, in `text_model`."""
    if "text_projection" not in params:
        return params
    inner = {name: value for name, value in params.items() if name != "text_projection"}
    return {"text_model": inner, "text_projection": params["text_projection"]}


def text_encoder_config(model: Frozen[CLIPTextModel]) -> dict[str, Any]:
    """A text model's `config.json`, without the tokenizer's ids."""
    projects = "text_projection" in model.params
    return dataclasses.asdict(model.config) | {
        "architectures": ["CLIPTextModelWithProjection" if projects else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "attention_dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
    }


def unet_config(config: Any) -> dict[str, Any]:
    """`unet/config.json` of a UNetConfig."""
    return dataclasses.asdict(config) | {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": "silu",
        "center_input_sample": False,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
    }


def vae_config(config: Any, sample_size: int) -> dict[str, Any]:
    """`vae/config.json` of a VAEConfig; `sample_size`: side of the pictures it was trained on."""
    levels = len(config.block_out_channels)
    return dataclasses.asdict(config) | {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": sample_size,
    }


def model_index(scheduler_class: str, suffixes: Sequence[str]) -> dict[str, Any]:
    """`model_index.json` of a pipeline without a safety checker; `suffixes`: of its text models."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", scheduler_class],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if len(suffixes) == 1:
        return index | {"requires_safety_checker": False, "safety_checker": [None, None]}
    return index | {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }


def _write_json(path: epath.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
