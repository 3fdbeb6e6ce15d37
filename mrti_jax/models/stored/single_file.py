# SPDX-License-Identifier: Apache-2.0
"""A whole model in one file, in the layout of the original code, recognised by its tensors."""

import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from mrti_jax.errors import UserError, warn
from mrti_jax.models.source import UNetPrediction
from mrti_jax.models.stored import ldm_text, ldm_unet, ldm_vae
from mrti_jax.models.stored.families import SD1, SD2, SDXL, Family
from mrti_jax.models.stored.model import StoredModel, StoredModule, StoredTokenizer
from mrti_jax.models.stored.names import current_names, leftovers
from mrti_jax.models.stored.refuse import LCM, UNCLIP, image_conditioned, what_else
from mrti_jax.models.stored.tensor import StoredTensor, Tensors
from mrti_jax.models.stored.tensor_file import read_tensor_file

# The tokenizer that all families use; a single file has none.
TOKENIZER = "openai/clip-vit-large-patch14"


_PAD = "!"
# Left over from training, or constants: nothing is lost without them. The last are OpenCLIP's, of
# whose 24 layers Stable Diffusion 2.x uses all but the last.
_LEFTOVERS = re.compile(
    r"model_ema\..*|(.*\.)?(position_ids|logit_scale|attn_mask)|first_stage_model\.loss\..*|logvar"
    r"|betas|(sqrt_(recip|recipm1|one_minus)?_?|log_one_minus_)?alphas_cumprod(_prev)?"
    r"|posterior_.*|lvlb_weights|denoiser\..*|v_pred|ztsnr"
    r"|cond_stage_model\.model\.(text_projection|transformer\.resblocks\.23\..*)"
)
# Kept under names without dots. Merged and trained-on models often still have that of another.
_EMA = "model_ema.diffusion_model"
# Where the U-Net and the autoencoder take the latents.
_CONV_IN = ldm_unet.PREFIX + "input_blocks.0.0.weight"
_LATENTS_IN = ldm_vae.PREFIX + "decoder.conv_in.weight"
# A projection of the picture's embedding; an embedding of noise levels is `label_emb.weight`.
_LABELS = ldm_unet.PREFIX + "label_emb.0."
_GUIDANCE = re.compile(re.escape(ldm_unet.PREFIX) + r"(time_embed\w*\.)?cond_proj\.weight")
_PROJECTION = re.compile(re.escape(ldm_unet.PREFIX) + r".*\.proj_in\.weight")
_POOLING = SDXL.text[1] + "text_projection"
# Tensors that mark models trained as in Karras et al. 2022.
_EDM = re.compile(r"edm_vpred\.sigma_(max|min)|edm_(mean|std)")
# Updates after which Stable Diffusion 2.0 base, which predicts epsilon, was published.
_SD2_BASE_STEPS = 875_000


def open_file(path: epath.Path, prediction_type: UNetPrediction | None) -> StoredModel:
    """The model in a `.safetensors` or `.ckpt` file in the layout of the original code.

    Args:
        prediction_type: what the U-Net predicts; if not given, what the file says, or what is usual
            in its family.

    Raises:
        UserError: the file is damaged, or is not a whole Stable Diffusion.
    """
    tensors, facts = read_tensor_file(path)
    family = family_of(tensors)
    if family is None:
        raise UserError(f"{path} {what_else(tensors, facts)}")
    if unsupported := _unsupported(family, tensors):
        raise UserError(f"{path} {unsupported}")
    prefixes = (ldm_unet.PREFIX, ldm_vae.PREFIX, *family.text)
    lacking = [prefix for prefix in prefixes if not _under(prefix, tensors)]
    if lacking:
        raise UserError(
            f"{path} is not a whole model: it holds a U-Net, but no {lacking[0]}* (text encoder or "
            "autoencoder)"
        )
    predicts = prediction_type or _prediction_type(path, family, tensors, facts)
    unused = [
        name for name in tensors if not name.startswith(prefixes) and not _LEFTOVERS.fullmatch(name)
    ]
    if any(name.startswith(_EMA) for name in tensors):
        unused.append(f"{_EMA}* (the EMA copy of the U-Net)")
    try:
        modules = _modules(family, tensors)
        for part, found in modules.items():
            left = leftovers(part, found)
            unused += [f"{part}: {name}" for name in sorted(left)]
            modules[part] = {name: found[name] for name in found if name not in left}
        configs = _configs(family, modules, family.sample_size[predicts])
    except (LookupError, StopIteration, ValueError) as error:
        raise UserError(
            f"{path} looks like {family.name}, but lacks tensors, or has some of the wrong shape: "
            f"{error}"
        ) from None
    tokenizers = {"tokenizer": StoredTokenizer(TOKENIZER, _PAD if family is SD2 else None)}
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    if family is SDXL:
        tokenizers["tokenizer_2"] = StoredTokenizer(TOKENIZER, _PAD)
        index = {
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": True,
        }
    scheduler_config = {
        **family.scheduler_config,
        "prediction_type": predicts,
        "rescale_betas_zero_snr": "ztsnr" in tensors,
    }
    return StoredModel(
        {part: StoredModule(str(path), configs[part], modules[part]) for part in sorted(modules)},
        tokenizers,
        scheduler_config,
        index,
        layout="single file in the original layout",
        unused=tuple(unused),
    )


def family_of(tensors: Tensors) -> Family | None:
    """The family of a whole model, by the names of its tensors; None if it is not one."""
    if _CONV_IN in tensors:
        for family in (SDXL, SD2, SD1):
            if any(name.startswith(family.text[-1]) for name in tensors):
                return family
    return None


def _unsupported(family: Family, tensors: Tensors) -> str | None:
    """Why a whole model can't be used, as in `what_else`; None if it can."""
    inputs = {"in_channels": _channels(_CONV_IN, tensors)}
    latents = {"latent_channels": _channels(_LATENTS_IN, tensors)}
    if kind := image_conditioned(inputs, latents):
        return kind
    if family is not SDXL and any(name.startswith(_LABELS) for name in tensors):
        return UNCLIP
    if any(map(_GUIDANCE.fullmatch, tensors)):
        return LCM
    if family is SD1 and any(
        _PROJECTION.fullmatch(name) and len(tensor.shape) == 2 for name, tensor in tensors.items()
    ):
        return (
            "has a text encoder under the names of Stable Diffusion 1.x, but the U-Net of 2.x "
            "(proj_in.weight is a matrix): use the file as published, or its diffusers folder"
        )
    if family is SDXL and not any(name.startswith(_POOLING) for name in tensors):
        return f"lacks {_POOLING}, of its second text encoder: use another file of this model"
    edm = next(filter(_EDM.fullmatch, tensors), None)
    return edm and f"has the noise levels of EDM (it holds {edm}), which are not supported"


def _channels(convolution: str, tensors: Tensors) -> int:
    """Input channels of a convolution; 4, as usual, if it is missing or not a convolution."""
    shape = tensors[convolution].shape if convolution in tensors else ()
    return shape[1] if len(shape) > 1 else 4


def _under(prefix: str, tensors: Tensors) -> dict[str, StoredTensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not _LEFTOVERS.fullmatch(name)
    }


def _modules(family: Family, tensors: Tensors) -> dict[str, dict[str, StoredTensor]]:
    """The tensors of each part under the names of diffusers."""
    text = [_under(prefix, tensors) for prefix in family.text]
    modules = {
        "text_encoder": ldm_text.open_clip_tensors(text[0])
        if family is SD2
        else current_names(text[0]),
        "unet": ldm_unet.unet_tensors(_under(ldm_unet.PREFIX, tensors)),
        "vae": ldm_vae.vae_tensors(_under(ldm_vae.PREFIX, tensors)),
    }
    if family is SDXL:
        modules["text_encoder_2"] = ldm_text.open_clip_tensors(text[1])
    return modules


def _configs(
    family: Family, modules: Mapping[str, Tensors], sample_size: int
) -> dict[str, dict[str, Any]]:
    """The `config.json` of each part."""
    act = "gelu" if family is SD2 else "quick_gelu"
    configs = {"text_encoder": ldm_text.text_config(modules["text_encoder"], act)}
    if family is SDXL:
        configs["text_encoder_2"] = ldm_text.text_config(modules["text_encoder_2"], "gelu")
    configs["unet"] = ldm_unet.unet_config(
        modules["unet"],
        fixed_heads=family is SD1,
        sample_size=sample_size,
        pooled_dim=configs.get("text_encoder_2", {}).get("projection_dim"),
    )
    configs["vae"] = ldm_vae.vae_config(
        modules["vae"], scaling_factor=family.scaling_factor, force_upcast=family is SDXL
    )
    return configs


def _prediction_type(
    path: epath.Path, family: Family, tensors: Tensors, facts: Mapping[str, Any]
) -> UNetPrediction:
    """What the file says, or what is usual. In version 2 both are, with the same tensors."""
    told = facts.get("modelspec.prediction_type")
    if told in ("v", "v_prediction") or "v_pred" in tensors:
        return "v_prediction"
    if told == "epsilon" or family is not SD2:
        return "epsilon"
    if facts.get("global_step") == _SD2_BASE_STEPS:
        return "epsilon"
    warn(
        f"{path} doesn't say what its U-Net predicts: assuming v_prediction, 768 px; if pictures "
        "come out as noise, use --prediction-type epsilon (512 px)"
    )
    return "v_prediction"
