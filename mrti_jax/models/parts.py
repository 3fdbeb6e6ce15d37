# SPDX-License-Identifier: Apache-2.0
"""The modules that a Stable Diffusion is made of, by the names of their folders."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mrti_jax.errors import UserError
from mrti_jax.models.clip import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from mrti_jax.models.frozen import OneKey
from mrti_jax.models.stored.folder import TOKENIZERS
from mrti_jax.models.stored.model import StoredModule
from mrti_jax.models.unet import UNet2DConditionModel, UNetConfig
from mrti_jax.models.vae import AutoencoderKL, VAEConfig

PARTS: Mapping[str, tuple[Any, type[nnx.Module]]] = {
    "text_encoder": (CLIPTextConfig, CLIPTextModel),
    "text_encoder_2": (CLIPTextConfig, CLIPTextModelWithProjection),
    "unet": (UNetConfig, UNet2DConditionModel),
    "vae": (VAEConfig, AutoencoderKL),
}
TEXT_PARTS = tuple(TOKENIZERS)
DTYPES = ("bfloat16", "float32")
"""The dtypes that a model can be loaded in."""


def read_part_config(part: str, config: Mapping[str, Any]) -> Any:
    """The config of a part from its JSON object; UserError for what is not supported."""
    return PARTS[part][0].from_dict(config, f"{part}/config.json")


def read_configs(modules: Mapping[str, StoredModule]) -> dict[str, Any]:
    """The config of each part of a stored model; UserError for what is not supported.

    Only XL's VAE is upcast, as in diffusers, which writes the field's default to others' as well.
    """
    configs = {part: read_part_config(part, module.config) for part, module in modules.items()}
    if "text_encoder_2" not in configs:
        configs["vae"] = dataclasses.replace(configs["vae"], force_upcast=False)
    return configs


def check_widths(configs: Mapping[str, Any]) -> None:
    """Raises UserError unless the U-Net takes what the text encoders return.

    `configs`: those of a model's parts.
    """
    unet = configs["unet"]
    width = sum(configs[part].hidden_size for part in TEXT_PARTS if part in configs)
    last = configs.get("text_encoder_2")
    for what, given, taken in (
        ("text states of width", width, unet.cross_attention_dim),
        ("a pooled text of width", last and last.projection_dim, unet.pooled_dim),
    ):
        if given != taken:
            raise UserError(
                f"its U-Net takes {what} {taken or 0}, but its text encoder returns {given or 0}: "
                "the parts don't belong together, or this is not a base model"
            )


def part_dtype(config: Any, dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype of a part's weights when the model is loaded in `dtype`: float32 for a VAE that
    overflows in 16 bits."""
    return jnp.dtype(jnp.float32 if getattr(config, "force_upcast", False) else dtype)


def build_part(part: str, config: Any, dtype: jax.typing.DTypeLike) -> nnx.Module:
    """The module of a part, for its structure: call it in `abstract`."""
    return PARTS[part][1](config, dtype=dtype, rngs=OneKey())  # type: ignore[call-arg]
