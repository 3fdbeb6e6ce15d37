# SPDX-License-Identifier: Apache-2.0
"""The shapes of known models without their weights, to plan with and to compile for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrti_jax.errors import check_word
from mrti_jax.models.attention import Kernel, with_kernel
from mrti_jax.models.clip import CLIPTextConfig
from mrti_jax.models.frozen import Frozen, without_weights
from mrti_jax.models.parts import TEXT_PARTS, build_part, part_dtype
from mrti_jax.models.source import ModelSource
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.stored.families import SD1, SD2, SDXL
from mrti_jax.models.stored.find import mini_folder
from mrti_jax.models.tokenizer import load_tokenizer
from mrti_jax.models.unet import UNetConfig
from mrti_jax.models.vae import VAEConfig
from mrti_jax.parallel.mesh import weight_sharded

CLIP_L = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)


@dataclasses.dataclass(frozen=True)
class Preset:
    """The configs of a model's parts; of two text models, the second returns a pooled state."""

    text: tuple[CLIPTextConfig, ...]
    unet: UNetConfig
    vae: VAEConfig
    scheduler: Mapping[str, Any]


PRESETS = {
    "sd15": Preset(
        (CLIP_L,),
        UNetConfig(cross_attention_dim=768),
        VAEConfig(force_upcast=False),
        SD1.scheduler_config,
    ),
    "sd21": Preset(
        (
            CLIPTextConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                hidden_act="gelu",
            ),
        ),
        UNetConfig(
            sample_size=96,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        VAEConfig(force_upcast=False),
        {**SD2.scheduler_config, "prediction_type": "v_prediction"},
    ),
    "sdxl": Preset(
        (
            CLIP_L,
            CLIPTextConfig(
                hidden_size=1280,
                intermediate_size=5120,
                num_hidden_layers=32,
                num_attention_heads=20,
                hidden_act="gelu",
                projection_dim=1280,
            ),
        ),
        UNetConfig(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        VAEConfig(scaling_factor=0.13025),
        SDXL.scheduler_config,
    ),
}


def find_preset(name: str) -> Preset:
    """A preset by its name; UserError if there is none."""
    check_word("model", name, tuple(PRESETS))
    return PRESETS[name]


def shapes_only(
    name: str, preset: Preset, mesh: Mesh, dtype: jax.typing.DTypeLike, kernel: Kernel
) -> StableDiffusion:
    """A model whose weights are shapes: programs can be lowered and compiled with it, not run."""

    def module(part: str, config: Any) -> Frozen:
        shapes = without_weights(
            config,
            lambda: with_kernel(build_part(part, config, part_dtype(config, dtype)), kernel),
        )

        def on_mesh(want: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return want.update(sharding=weight_sharded(mesh, want.shape))

        return dataclasses.replace(shapes, params=jax.tree.map(on_mesh, shapes.params))

    # Any tokenizer: no text is read.
    tokenizer = load_tokenizer(mini_folder() / "tokenizer")
    return StableDiffusion(
        source=ModelSource(path=name),
        tokenizers=(tokenizer,) * len(preset.text),
        text_models=tuple(
            module(part, config) for part, config in zip(TEXT_PARTS, preset.text, strict=False)
        ),
        unet=module("unet", preset.unet),
        vae=module("vae", preset.vae),
        scheduler_config=dict(preset.scheduler),
        zeros_for_empty_prompt=len(preset.text) > 1,
        dtype=jnp.dtype(dtype),
        mesh=mesh,
    )
