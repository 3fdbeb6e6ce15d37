# SPDX-License-Identifier: Apache-2.0
"""Text encoders in single files: CLIP as in transformers, or OpenCLIP under its own names."""

import re
from typing import Any

from mrti_jax.models.stored.tensor import StoredTensor, Tensors

_FIXED = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_MODULES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# The same in every CLIP that Stable Diffusion uses.
_HEAD_WIDTH = 64


def open_clip_tensors(tensors: Tensors) -> dict[str, StoredTensor]:
    """OpenCLIP's text transformer under transformers' names, without a leading `text_model.`"""
    result: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if match := _LAYER.fullmatch(name):
            result |= _layer(f"encoder.layers.{match[1]}.", match[2], tensor)
        elif name == "text_projection":  # a matrix there, the weight of a linear map here
            result["text_projection.weight"] = tensor.transposed()
        else:
            result[_FIXED.get(name, name)] = tensor
    return result


def text_config(tensors: Tensors, hidden_act: str) -> dict[str, Any]:
    """The `config.json` that transformers would write for these tensors (under its names)."""
    vocab_size, width = tensors["embeddings.token_embedding.weight"].shape
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}
    config = {
        "model_type": "clip_text_model",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": tensors["embeddings.position_embedding.weight"].shape[0],
        "hidden_act": hidden_act,
    }
    if "text_projection.weight" in tensors:
        config["projection_dim"] = tensors["text_projection.weight"].shape[0]
    return config


def _layer(prefix: str, rest: str, tensor: StoredTensor) -> dict[str, StoredTensor]:
    if match := re.fullmatch(r"attn\.in_proj_(weight|bias)", rest):
        third = tensor.shape[0] // 3
        return {
            f"{prefix}self_attn.{kind}_proj.{match[1]}": tensor.rows(i * third, (i + 1) * third)
            for i, kind in enumerate("qkv")
        }
    module, _, leaf = rest.rpartition(".")
    return {f"{prefix}{_MODULES.get(module, module)}.{leaf}": tensor}
