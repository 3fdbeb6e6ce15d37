# SPDX-License-Identifier: Apache-2.0
"""What a file or folder is, if not a text-to-image Stable Diffusion."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mrti_jax.models.stored.tensor import Tensors

_WHOLE = "a whole Stable Diffusion 1.x, 2.x or XL is needed"
REFINER = f"is the refiner of Stable Diffusion XL: {_WHOLE}"
LORA = f"is a LoRA, a modification of a model: {_WHOLE}"
UNCLIP = f"is an unCLIP model, which draws from the embedding of a picture: {_WHOLE}"
LCM = (
    "is a Latent Consistency Model, whose U-Net takes the guidance scale: use the model that it "
    "was distilled from"
)
_VIDEO = "Stable Video Diffusion, which draws from a picture"
_IMAGE_CONDITIONED = {
    9: "an inpainting model, which edits pictures",
    8: "an InstructPix2Pix model, which edits pictures",
    7: "an upscaler",
    5: "a depth-to-image model",
}
# Where the U-Net takes the latents, in single files and in folders.
_CONV_IN = ("model.diffusion_model.input_blocks.0.0.weight", "conv_in.weight")
# In this order: the first whose pattern is found in a tensor's name.
_KINDS = (
    (r"lora[_.]|\.lora_?[AB]\.|(^|\.)(hada|lokr|oft|diff)_", "a LoRA, a modification of a model"),
    (r"^control_model\.|controlnet_|input_hint_block", "a ControlNet, an addition to a model"),
    (r"(^|\.)joint_blocks\.", "Stable Diffusion 3, which has no U-Net"),
    (r"(^|\.)double_blocks\.|(^|\.)single_transformer_blocks\.", "Flux, which has no U-Net"),
    (r"(^|\.)motion_modules\.", "an AnimateDiff motion module"),
    (r"^conditioner\.embedders\.\d+\.open_clip\.|\.time_stack\.", _VIDEO),
    (r"^conditioner\.embedders\.0\.model\.", "the refiner of Stable Diffusion XL"),
    (r"^string_to_param|^emb_params$|^emp_params$|^clip_[lg]$", "an embedding, a learned word"),
    *((f"^in_channels={channels}$", kind) for channels, kind in _IMAGE_CONDITIONED.items()),
    (r"^model\.diffusion_model\.input_blocks\.", "a U-Net without a text encoder"),
    (r"^down_blocks\.\d+\.resnets\.", "a U-Net alone, as in the folder of a model"),
    (r"^(text_model|encoder\.layers)\.", "a text encoder alone, as in the folder of a model"),
    (r"^encoder\.block\.\d+\.", "T5, a text encoder alone"),
    (r"^model_ema\.diffusion_model", "only the EMA copy of a U-Net"),
    (r"^(first_stage_model\.)?(en|de)coder\.(down|mid|conv_in)", "an autoencoder (VAE) alone"),
    (r"(^|\.)transformer_blocks\.\d+\.attn\.", "Stable Diffusion 3 or similar, without a U-Net"),
)
# By how the name of a pipeline or module begins.
_CLASSES = {
    "StableDiffusion3": "Stable Diffusion 3, which has no U-Net",
    "SD3Transformer": "Stable Diffusion 3, which has no U-Net",
    "Flux": "Flux, which has no U-Net",
    "PixArt": "PixArt, which has no U-Net",
    "StableCascade": "Stable Cascade",
    "StableVideoDiffusion": _VIDEO,
    "UNetSpatioTemporal": _VIDEO,
}
OURS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


def what_else(tensors: Tensors, facts: Iterable[str]) -> str:
    """The end of a sentence about a file that is no whole model: `is ...: a whole ... is needed`.

    Args:
        facts: other names in the file.
    """
    inputs = [tensors[name].shape[1:2] for name in _CONV_IN if name in tensors]
    names = [*tensors, *facts, *(f"in_channels={n}" for (n,) in filter(None, inputs))]
    if {"embeddings", "boundaries"} <= set(names):
        return f"is a concept, a learned word (--concept): {_WHOLE} here"
    for pattern, kind in _KINDS:
        if any(re.search(pattern, name) for name in names):
            return f"is {kind}: {_WHOLE}"
    if 0 < len(tensors) <= 2 and all(len(tensor.shape) <= 2 for tensor in tensors.values()):
        return f"is an embedding, a learned word: {_WHOLE}"
    known = f" (its tensors are {', '.join(list(tensors)[:3])}, ...)" if tensors else ""
    return f"is not a known kind of model{known}: {_WHOLE}"


def what_class(class_name: str) -> str:
    """What a folder without all parts of a model is, as in `what_else`, by the class it names."""
    if class_name in OURS:
        return "lacks its unet/: download or copy it again"
    article = "an" if class_name[:1] in "AEIO" else "a"
    return f"is {article} {class_name}: {_WHOLE}"


def foreign(config: Mapping[str, Any]) -> str | None:
    """What a folder or module is, as in `what_else`, by the class in its `model_index.json` or
    `config.json`; None if it is none of the known ones."""
    class_name = config.get("_class_name")
    for start, kind in _CLASSES.items():
        if isinstance(class_name, str) and class_name.startswith(start):
            return f"is {kind}: {_WHOLE}"
    return None


def image_conditioned(unet_config: Mapping[str, Any], vae_config: Mapping[str, Any]) -> str | None:
    """What a model is, as in `what_else`, if its U-Net takes a picture as well as the latents; None
    if it doesn't, or if its configs don't say."""
    if unet_config.get("class_embed_type") == "projection":
        return UNCLIP
    channels, latents = unet_config.get("in_channels", 4), vae_config.get("latent_channels", 4)
    if channels == latents or not (isinstance(channels, int) and isinstance(latents, int)):
        return None
    kind = _IMAGE_CONDITIONED.get(channels, "a model that needs more than a prompt")
    return f"is {kind} (its U-Net takes {channels} channels, not {latents}): use its base model"
