# SPDX-License-Identifier: Apache-2.0
"""The U-Net under the names of the original code (CompVis/latent-diffusion, `openaimodel.py`).

There, all residual blocks, transformers and resamplers are numbered consecutively in `input_blocks`
and `output_blocks`; a resampler ends a level of the U-Net.
"""

import re
from typing import Any

from mrti_jax.models.stored.tensor import StoredTensor, Tensors

PREFIX = "model.diffusion_model."

_FIXED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.\d+\.(.+)")
_BLOCKS = {"input": "down_blocks", "output": "up_blocks"}
# Stable Diffusion 1.x has 8 heads at every level, its successors heads of 64 channels.
_HEADS, _HEAD_WIDTH = 8, 64
# Original height and width, crop, target height and width (SDXL).
_NUM_SIZES = 6


def unet_tensors(tensors: Tensors) -> dict[str, StoredTensor]:
    """The tensors under diffusers' names; those without a counterpart keep theirs.

    Args:
        tensors: of the U-Net, without `PREFIX`.
    """
    places = _places(tensors)
    return {_rename(name, places): tensor for name, tensor in tensors.items()}


def unet_config(
    tensors: Tensors, *, fixed_heads: bool, sample_size: int, pooled_dim: int | None
) -> dict[str, Any]:
    """The `config.json` that diffusers would write for these tensors (under its names).

    Args:
        fixed_heads: 8 heads at every level, as in Stable Diffusion 1.x.
        sample_size: side of the latents it was trained on.
        pooled_dim: width of the pooled text (SDXL).
    """
    num_levels = _count(tensors, r"down_blocks\.(\d+)\.resnets\.0\.conv2\.weight")
    levels = [f"down_blocks.{i}." for i in range(num_levels)]
    widths = [tensors[f"{level}resnets.0.conv2.weight"].shape[0] for level in levels]
    depths = [_depth(tensors, level) for level in levels]
    ups = [_depth(tensors, f"up_blocks.{i}.") for i in range(num_levels)]
    attention = next(name for name in tensors if name.endswith(".attn2.to_k.weight"))
    projection = next(name for name in tensors if name.endswith(".proj_in.weight"))
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": tensors["conv_in.weight"].shape[1],
        "out_channels": tensors["conv_out.weight"].shape[0],
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in ups],
        "block_out_channels": widths,
        "layers_per_block": _count(tensors, r"down_blocks\.0\.resnets\.(\d+)\..*"),
        "cross_attention_dim": tensors[attention].shape[1],
        "attention_head_dim": _HEADS if fixed_heads else [w // _HEAD_WIDTH for w in widths],
        "use_linear_projection": len(tensors[projection].shape) == 2,
    }
    if max(depths) > 1:
        config["transformer_layers_per_block"] = [max(depth, 1) for depth in depths]
    if pooled_dim is not None:
        width = tensors["add_embedding.linear_1.weight"].shape[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (width - pooled_dim) // _NUM_SIZES,
            "projection_class_embeddings_input_dim": width,
        }
    return config


def _places(tensors: Tensors) -> dict[tuple[str, str], tuple[int, int]]:
    """Side and number of a block -> its level, and its number within that."""
    places = {}
    for side in _BLOCKS:
        numbers = {int(m[2]) for name in tensors if (m := _BLOCK.fullmatch(name)) and m[1] == side}
        level = count = 0
        for number in sorted(numbers - ({0} if side == "input" else set())):
            places[side, str(number)] = level, count
            count += 1
            block = f"{side}_blocks.{number}."
            if any(f"{block}{end}.weight" in tensors for end in ("0.op", "1.conv", "2.conv")):
                level, count = level + 1, 0
    return places


def _rename(name: str, places: dict[tuple[str, str], tuple[int, int]]) -> str:
    module, _, leaf = name.rpartition(".")
    if module in _FIXED:
        return f"{_FIXED[module]}.{leaf}"
    if name.startswith("middle_block."):
        _, number, rest = name.split(".", 2)
        return f"mid_block.{_MIDDLE.get(number, number)}.{_resnet(rest)}"
    match = _BLOCK.fullmatch(name)
    if not match:
        return name
    side, number, rest = match.groups()
    level, count = places[side, number]
    if rest.startswith("op."):
        inner = f"downsamplers.0.conv.{leaf}"
    elif rest.startswith("conv."):
        inner = f"upsamplers.0.conv.{leaf}"
    elif _resnet(rest) != rest:
        inner = f"resnets.{count}.{_resnet(rest)}"
    else:
        inner = f"attentions.{count}.{rest}"
    return f"{_BLOCKS[side]}.{level}.{inner}"


def _resnet(rest: str) -> str:
    module, _, leaf = rest.rpartition(".")
    return f"{_RESNET[module]}.{leaf}" if module in _RESNET else rest


def _depth(tensors: Tensors, level: str) -> int:
    """Transformer blocks in each transformer of a level."""
    return _count(tensors, re.escape(level) + r"attentions\.0\.transformer_blocks\.(\d+)\..*")


def _count(tensors: Tensors, pattern: str) -> int:
    return len({match[1] for name in tensors if (match := re.fullmatch(pattern, name))})
