# SPDX-License-Identifier: Apache-2.0
"""The autoencoder under the names of the original code (CompVis/latent-diffusion, `model.py`)."""

import re
from typing import Any

from mrti_jax.models.stored.tensor import StoredTensor, Tensors

PREFIX = "first_stage_model."

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# Some tools keep these names from diffusers.
_ATTENTION |= {name: name for name in ("to_q", "to_k", "to_v", "to_out.0")}
_LEVEL = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(.+)")
_ATTENTION_NAME = re.compile(r"(.+\.mid)\.attn_1\.(.+)\.(\w+)")


def vae_tensors(tensors: Tensors) -> dict[str, StoredTensor]:
    """The tensors under diffusers' names; those without a counterpart keep theirs.

    Args:
        tensors: of the autoencoder, without `PREFIX`.
    """
    last = max((int(m[2]) for name in tensors if (m := _LEVEL.match(name))), default=0)
    result = {}
    for name, tensor in tensors.items():
        if (match := _ATTENTION_NAME.fullmatch(name)) and match[2] in _ATTENTION:
            name = f"{match[1]}_block.attentions.0.{_ATTENTION[match[2]]}.{match[3]}"
            if tensor.shape[2:] == (1, 1):
                tensor = tensor.squeezed()  # 1x1 convolutions there, linear maps here
        result[_rename(name, last)] = tensor
    return result


def vae_config(tensors: Tensors, *, scaling_factor: float, force_upcast: bool) -> dict[str, Any]:
    """The `config.json` that diffusers would write for these tensors (under its names).

    Args:
        scaling_factor: of the latents for the U-Net.
        force_upcast: whether its activations overflow in 16 bits.
    """
    conv = re.compile(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")
    found = {name: m for name in tensors if (m := conv.fullmatch(name))}
    widths = {int(m[1]): tensors[name].shape[0] for name, m in found.items()}
    levels = len(widths)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "block_out_channels": [widths[level] for level in sorted(widths)],
        "layers_per_block": len({m[2] for m in found.values()}),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": scaling_factor,
        "force_upcast": force_upcast,
    }


def _rename(name: str, last_level: int) -> str:
    if match := _LEVEL.fullmatch(name):
        side, level, rest = match[1], int(match[2]), match[3]
        level = level if side == "encoder.down" else last_level - level
        rest = re.sub(r"^block\.", "resnets.", rest)
        rest = re.sub(r"^(down|up)sample\.", r"\1samplers.0.", rest)
        name = f"{side}_blocks.{level}.{rest}"
    name = re.sub(r"\.mid\.block_1\.", ".mid_block.resnets.0.", name)
    name = re.sub(r"\.mid\.block_2\.", ".mid_block.resnets.1.", name)
    name = re.sub(r"\.nin_shortcut\.", ".conv_shortcut.", name)
    return re.sub(r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out.", name)
