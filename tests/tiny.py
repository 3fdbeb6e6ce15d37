# SPDX-License-Identifier: Apache-2.0
"""Diffusers folders with random weights, shaped like Stable Diffusion 1.x, 2.x and XL but tiny."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrti_jax.concept import Concept, equal_boundaries
from mrti_jax.models.clip import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from mrti_jax.models.export import save_pipeline
from mrti_jax.models.frozen import Frozen, abstract
from mrti_jax.models.stored.find import mini_folder
from mrti_jax.models.tokenizer import load_tokenizer
from mrti_jax.models.unet import UNet2DConditionModel, UNetConfig
from mrti_jax.models.vae import AutoencoderKL, VAEConfig

Kind = Literal["sd1", "sd2", "xl"]

TEXT_WIDTH = 32
XL_WIDTH = 24  # of the first of XL's text models
XL_PARTS = (("clip_l", XL_WIDTH), ("clip_g", TEXT_WIDTH))
LATENT_SIZE = 8
PICTURE_SIZE = 16

SCHEDULER: dict[str, Any] = {
    "_diffusers_version": "0.42.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SCHEDULERS: dict[Kind, dict[str, Any]] = {
    "sd1": SCHEDULER
    | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "prediction_type": "epsilon"},
    "sd2": SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "xl": SCHEDULER | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
}


def text_config(kind: Kind, vocab_size: int, width: int = TEXT_WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="quick_gelu" if kind == "sd1" else "gelu",
        projection_dim=20,
    )


def unet_config(kind: Kind) -> UNetConfig:
    common: dict[str, Any] = {
        "sample_size": LATENT_SIZE,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    }
    if kind == "xl":
        return UNetConfig(
            **common,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=XL_WIDTH + TEXT_WIDTH,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=20 + 6 * 8,
        )
    return UNetConfig(
        **common,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4 if kind == "sd1" else (2, 8),
        use_linear_projection=kind == "sd2",
    )


def vae_config(kind: Kind = "sd1") -> VAEConfig:
    common: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    }
    if kind == "xl":
        return VAEConfig(**common, scaling_factor=0.13025, force_upcast=True)
    return VAEConfig(**common, force_upcast=False)


def random_module(config: Any, module: type[nnx.Module], seed: int = 0) -> Frozen:
    """Weights drawn on the host, biases and norms too, so that none of them goes untested."""
    graphdef, weights = abstract(
        lambda: module(config, dtype=jnp.float32, rngs=nnx.Rngs(0))  # type: ignore[call-arg]
    )
    rng = np.random.default_rng(seed)

    def draw(leaf: str, shape: tuple[int, ...]) -> jax.Array:
        noise = rng.standard_normal(shape, np.float32)
        match leaf:
            case "kernel":
                return jnp.asarray(noise / np.float32(np.sqrt(np.prod(shape[:-1]))))
            case "embedding":
                return jnp.asarray(0.3 * noise)
            case "scale":
                return jnp.asarray(1 + 0.1 * noise)
            case _:
                return jnp.asarray(0.1 * noise)

    params = {path: draw(path[-1], want.shape) for path, want in weights}
    return Frozen(config, graphdef, nnx.traversals.unflatten_mapping(params))


def tiny_concept(
    name: str = "jane",
    num_buckets: int = 10,
    num_vectors: int = 1,
    parts: tuple[tuple[str, int], ...] = (("", TEXT_WIDTH),),
) -> Concept:
    """A table with rows far apart, so that each of them shows in a picture."""
    rng = np.random.default_rng(len(name) + 100 * num_buckets + num_vectors)
    width = sum(width for _, width in parts)
    table = 3 * rng.standard_normal((num_buckets, num_vectors, width), np.float32)
    edges = equal_boundaries(num_buckets, 1000)
    return Concept(name, table, edges, {"initializer": "circle"}, parts)


def save_tiny(folder: Path, kind: Kind = "sd1") -> Path:
    """Writes the whole pipeline, with the tokenizer of the embedded model, and gives `folder`."""
    tokenizer_folder = mini_folder() / "tokenizer"
    vocab_size = len(load_tokenizer(tokenizer_folder))
    tokenizers = [tokenizer_folder]
    models = [random_module(text_config(kind, vocab_size), CLIPTextModel, 1)]
    if kind != "sd1":  # in 2.x the only tokenizer pads with "!", in XL the second one
        other = folder.with_name(f"{folder.name}_tokenizer")
        tokenizers[kind == "xl" :] = [pads_with("!", tokenizer_folder, other)]
    if kind == "xl":
        models = [
            random_module(text_config("sd1", vocab_size, XL_WIDTH), CLIPTextModel, 1),
            random_module(text_config("xl", vocab_size), CLIPTextModelWithProjection, 4),
        ]
    save_pipeline(
        folder,
        tokenizers,
        models,
        random_module(unet_config(kind), UNet2DConditionModel, 2),
        random_module(vae_config(kind), AutoencoderKL, 3),
        SCHEDULERS[kind],
    )
    return folder


def pads_with(token: str, source: Path, folder: Path) -> Path:
    """A copy of a tokenizer with another padding token."""
    shutil.copytree(source, folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((folder / name).read_text()) | {"pad_token": token}
        (folder / name).write_text(json.dumps(settings))
    return folder
