# SPDX-License-Identifier: Apache-2.0
"""Diffusers folders with random weights, shaped like Stable Diffusion 1.x and 2.x but tiny."""

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrti_jax.concept import Concept, equal_boundaries
from mrti_jax.models.clip import CLIPTextConfig, CLIPTextModel
from mrti_jax.models.export import save_pipeline
from mrti_jax.models.frozen import Frozen, abstract
from mrti_jax.models.stable_diffusion import load_tokenizer, mini_folder
from mrti_jax.models.unet import UNet2DConditionModel, UNetConfig
from mrti_jax.models.vae import AutoencoderKL, VAEConfig

Kind = Literal["sd1", "sd2"]

TEXT_WIDTH = 32
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
}


def text_config(kind: Kind, vocab_size: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="quick_gelu" if kind == "sd1" else "gelu",
    )


def unet_config(kind: Kind) -> UNetConfig:
    return UNetConfig(
        sample_size=LATENT_SIZE,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4 if kind == "sd1" else (2, 8),
        use_linear_projection=kind == "sd2",
        norm_num_groups=8,
    )


def vae_config() -> VAEConfig:
    return VAEConfig(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8)


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
    name: str = "jane", num_buckets: int = 10, num_vectors: int = 1, width: int = TEXT_WIDTH
) -> Concept:
    """A table with rows far apart, so that each of them shows in a picture."""
    rng = np.random.default_rng(len(name) + 100 * num_buckets + num_vectors)
    table = 3 * rng.standard_normal((num_buckets, num_vectors, width), np.float32)
    return Concept(name, table, equal_boundaries(num_buckets, 1000), {"initializer": "circle"})


def save_tiny(folder: Path, kind: Kind = "sd1") -> Path:
    """Writes the whole pipeline, with the tokenizer of the embedded model, and gives `folder`."""
    tokenizer_folder = mini_folder() / "tokenizer"
    vocab_size = len(load_tokenizer(tokenizer_folder))
    save_pipeline(
        folder,
        tokenizer_folder,
        random_module(text_config(kind, vocab_size), CLIPTextModel, 1),
        random_module(unet_config(kind), UNet2DConditionModel, 2),
        random_module(vae_config(), AutoencoderKL, 3),
        SCHEDULERS[kind],
    )
    return folder
