# SPDX-License-Identifier: Apache-2.0
"""Tiny random models by PyTorch's diffusers and transformers, and their names in the layout of the
original code, by arithmetic on the numbers of blocks."""

import re
from collections.abc import Iterable
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Family = Literal["sd1", "sd2", "sdxl"]
States = dict[str, dict[str, torch.Tensor]]

WIDTHS = (64, 128)
LAYERS = 2  # per block


def tiny_models(family: Family, num_text_layers: int, vocab_size: int = 50) -> dict[str, Any]:
    """Each part of a pipeline, by its name in a diffusers folder."""
    torch.manual_seed(0)
    text: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 1,
        "num_hidden_layers": num_text_layers,
        "hidden_act": "gelu" if family == "sd2" else "quick_gelu",
    }
    unet: dict[str, Any] = {
        "sample_size": {"sd1": 64, "sd2": 96, "sdxl": 128}[family],
        "block_out_channels": WIDTHS,
        "layers_per_block": LAYERS,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 64,
        "attention_head_dim": 8 if family == "sd1" else (1, 2),
        "use_linear_projection": family != "sd1",
    }
    second = {}
    if family == "sdxl":
        bigger = {**text, "hidden_size": 128, "num_attention_heads": 2, "hidden_act": "gelu"}
        config = CLIPTextConfig(**bigger, projection_dim=80)
        second = {"text_encoder_2": CLIPTextModelWithProjection(config)}
        unet |= {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 192,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": 80 + 6 * 16,
        }
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215,
    )
    first = CLIPTextModel(CLIPTextConfig(**text))
    return {"text_encoder": first, **second, "unet": UNet2DConditionModel(**unet), "vae": vae}


def states_of(models: dict[str, Any]) -> States:
    """The tensors of each part, without a leading `text_model.`"""
    return {
        part: {
            name.removeprefix("text_model."): tensor
            for name, tensor in model.state_dict().items()
            if not name.endswith("position_ids")
        }
        for part, model in models.items()
    }


def to_ldm(family: Family, states: States) -> dict[str, torch.Tensor]:
    """All parts as one file in the original layout."""
    clip = {f"text_model.{name}": tensor for name, tensor in states["text_encoder"].items()}
    if family == "sd1":
        text = _under("cond_stage_model.transformer.", clip)
    elif family == "sd2":
        text = _under("cond_stage_model.model.", _open_clip(states["text_encoder"]))
    else:
        text = _under("conditioner.embedders.0.transformer.", clip)
        text |= _under("conditioner.embedders.1.model.", _open_clip(states["text_encoder_2"]))
    unet = {_unet_name(name, states["unet"]): tensor for name, tensor in states["unet"].items()}
    vae = dict(_vae_entry(name, tensor) for name, tensor in states["vae"].items())
    return text | _under("model.diffusion_model.", unet) | _under("first_stage_model.", vae)


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _replace(name: str, pairs: dict[str, str]) -> str:
    for old, new in pairs.items():
        name = name.replace(old, new)
    return name


def _unet_name(name: str, names: Iterable[str]) -> str:
    resnet = {
        "norm1.": "in_layers.0.",
        "conv1.": "in_layers.2.",
        "time_emb_proj.": "emb_layers.1.",
        "norm2.": "out_layers.0.",
        "conv2.": "out_layers.3.",
        "conv_shortcut.": "skip_connection.",
    }
    if match := re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name):
        side, kind, rest = match[1], match[3], match[5]
        level, count = int(match[2]), int(match[4])
        # Every level has a block for each layer (and one more on the way up); on the way down a
        # downsampler is a block of its own, on the way up it is the last part of a block.
        first = level * (LAYERS + 1) + (side == "down")
        block = {"down": "input", "up": "output"}[side] + "_blocks"
        if kind == "downsamplers":
            return f"{block}.{first + LAYERS}.0.{rest.replace('conv.', 'op.')}"
        if kind == "upsamplers":
            attends = any(name.startswith(f"up_blocks.{level}.attentions.") for name in names)
            return f"{block}.{first + LAYERS}.{2 if attends else 1}.{rest}"
        if kind == "resnets":
            return f"{block}.{first + count}.0.{_replace(rest, resnet)}"
        return f"{block}.{first + count}.1.{rest}"
    if match := re.fullmatch(r"mid_block\.(\w+)\.(\d)\.(.*)", name):
        if match[1] == "attentions":
            return f"middle_block.1.{match[3]}"
        return f"middle_block.{2 * int(match[2])}.{_replace(match[3], resnet)}"
    return _replace(
        name,
        {
            "time_embedding.linear_1": "time_embed.0",
            "time_embedding.linear_2": "time_embed.2",
            "add_embedding.linear_1": "label_emb.0.0",
            "add_embedding.linear_2": "label_emb.0.2",
            "conv_in.": "input_blocks.0.0.",
            "conv_norm_out.": "out.0.",
            "conv_out.": "out.2.",
        },
    )


def _vae_entry(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    if ".attentions.0." in name:
        if tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        inner = {
            "group_norm": "norm",
            "to_q": "q",
            "to_k": "k",
            "to_v": "v",
            "to_out.0": "proj_out",
        }
        name = _replace(name.replace("mid_block.attentions.0", "mid.attn_1"), inner)
    if match := re.fullmatch(r"decoder\.up_blocks\.(\d)\.(.*)", name):
        name = f"decoder.up.{2 - int(match[1])}.{match[2]}"
    pairs = {
        "down_blocks.": "down.",
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "resnets.": "block.",
        "downsamplers.0.": "downsample.",
        "upsamplers.0.": "upsample.",
        "conv_shortcut.": "nin_shortcut.",
        "conv_norm_out.": "norm_out.",
    }
    return _replace(name, pairs), tensor


def _open_clip(states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pairs = {
        "encoder.layers.": "transformer.resblocks.",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
        "final_layer_norm": "ln_final",
        "embeddings.token_embedding": "token_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    result = {}
    for name, tensor in states.items():
        if match := re.fullmatch(r"(.*)self_attn\.([qkv])_proj\.(weight|bias)", name):
            if match[2] == "q":
                three = [states[f"{match[1]}self_attn.{k}_proj.{match[3]}"] for k in "qkv"]
                name = f"{match[1]}attn.in_proj_{match[3]}"
                result[_replace(name, pairs)] = torch.cat(three)
        elif name == "text_projection.weight":
            result["text_projection"] = tensor.T.contiguous()
        else:
            result[_replace(name, pairs)] = tensor
    return result
