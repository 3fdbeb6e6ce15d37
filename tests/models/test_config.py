# SPDX-License-Identifier: Apache-2.0
"""Configs of a model's parts: what diffusers allows is read, contradictions are reported."""

import dataclasses
from reprlib import repr as brief
from typing import Any

import pytest

from mrti_jax.errors import UserError
from mrti_jax.models.config import read_config
from mrti_jax.models.parts import read_part_config

XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"sample_size": [8, 8]}, {"sample_size": 8}),
        ({"sample_size": None}, {"sample_size": 64}),
        ({"sample_size": None, **XL}, {"sample_size": 128}),
        ({"sample_size": 32, "_diffusers_version": "0.6.0"}, {"sample_size": 64}),
        ({"sample_size": 96, "_diffusers_version": "0.7.0.dev0"}, {"sample_size": 96}),
        ({"sample_size": 32, "_diffusers_version": "0.9.0"}, {"sample_size": 32}),
        ({"layers_per_block": [2, 2, 2, 2]}, {"layers_per_block": 2}),
        ({"cross_attention_dim": [768] * 4}, {"cross_attention_dim": 768}),
        ({"attention_head_dim": [5, 10, 20, 20]}, {"attention_head_dim": (5, 10, 20, 20)}),
        ({"class_embed_type": None, "cross_attention_norm": False, "foreign": []}, {}),
        ({"resnet_out_scale_factor": 1.0, "mid_block_scale_factor": 1}, {}),
    ],
)
def test_what_diffusers_allows(given: dict[str, Any], meant: dict[str, Any]) -> None:
    read = dataclasses.asdict(read_part_config("unet", given))
    assert read | meant == read


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("unet", {"_class_name": "UNetSpatioTemporalConditionModel"}),
        ("unet", {"cross_attention_dim": [768, 1024]}),
        ("unet", {"sample_size": "8"}),
        ("unet", {"sample_size": [8, 16]}),
        ("unet", {"sample_size": 8.0}),
        ("unet", {"sample_size": True}),
        ("unet", {"layers_per_block": [1, 2]}),
        ("unet", {"layers_per_block": -1}),
        ("unet", {"layers_per_block": 10**30}),
        ("unet", {"block_out_channels": "abc"}),
        ("unet", {"block_out_channels": []}),
        ("unet", {"block_out_channels": None}),
        ("unet", {"block_out_channels": [320, 640]}),
        ("unet", {"norm_num_groups": 7}),
        ("unet", {"norm_eps": float("nan")}),
        ("unet", {"attention_head_dim": 0}),
        ("unet", {"attention_head_dim": 7}),
        ("unet", {"down_block_types": [["x"]]}),
        ("unet", {"in_channels": [4]}),
        ("unet", {"out_channels": 8}),
        ("unet", {"freq_shift": 2}),
        ("unet", {"addition_embed_type": "image"}),
        ("unet", {**XL, "projection_class_embeddings_input_dim": 1536}),
        ("unet", {"resnet_out_scale_factor": 2.0}),
        ("unet", {"mid_block_scale_factor": 0.5}),
        ("unet", {"resnet_skip_time_act": True}),
        ("unet", {"time_embedding_act_fn": "gelu"}),
        ("unet", {"timestep_post_act": "silu"}),
        ("unet", {"cross_attention_norm": "layer_norm"}),
        ("text_encoder", {"hidden_size": "a"}),
        ("text_encoder", {"hidden_act": [1]}),
        ("text_encoder", {"num_hidden_layers": -1}),
        ("text_encoder_2", {"hidden_size": 128, "num_attention_heads": 7}),
        ("text_encoder", {"model_type": "t5"}),
        ("vae", {"scaling_factor": "x"}),
        ("vae", {"scaling_factor": float("inf")}),
        ("vae", {"force_upcast": 1}),
        ("vae", {"block_out_channels": None}),
        ("vae", {"norm_num_groups": 5}),
        ("vae", {"scaling_factor": 1e30}),
        ("vae", {"layers_per_block": 10**6}),
        ("vae", {"block_out_channels": [16] * 3000}),
        ("unet", {"sample_size": 2**31 - 1}),
        ("text_encoder", {"num_hidden_layers": 10**6}),
    ],
)
def test_what_is_wrong_is_told(part: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        read_part_config(part, wrong)
    message, key = str(caught.value), list(wrong)[-1]
    assert message.startswith(f"{part}/config.json: ") and "\n" not in message
    assert key in message
    if not isinstance(wrong[key], list):
        assert brief(wrong[key]) in message


def test_a_number_of_any_length_is_told_in_brief() -> None:
    with pytest.raises(UserError) as caught:
        read_part_config("unet", {"norm_eps": 10**400})
    assert "norm_eps = 1000" in str(caught.value) and len(str(caught.value)) < 200


def test_only_what_says_so_of_xl_is_not_upcast() -> None:
    assert read_part_config("vae", {}).force_upcast  # as diffusers reads it
    assert not read_part_config("vae", {"force_upcast": False}).force_upcast


def test_the_defaults_are_of_their_types() -> None:
    """So that `only` is never asked for what a config may leave out."""
    for part in ("text_encoder", "unet", "vae"):
        config = read_part_config(part, {})
        values = dataclasses.asdict(config)
        assert read_config(type(config), values, where="", only={}) == config
