# SPDX-License-Identifier: Apache-2.0
"""A whole frozen Stable Diffusion, on the devices."""

import dataclasses
import os
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from transformers import CLIPTokenizer

from mrti_jax.errors import UserError, check_word
from mrti_jax.models.attention import choose_kernel, with_kernel
from mrti_jax.models.checkpoint import load_module
from mrti_jax.models.choices import AttentionChoice
from mrti_jax.models.clip import CLIPTextModel
from mrti_jax.models.frozen import Frozen, Params
from mrti_jax.models.parts import (
    DTYPES,
    TEXT_PARTS,
    build_part,
    check_widths,
    part_dtype,
    read_configs,
)
from mrti_jax.models.source import MINI, ModelSource, UNetPrediction
from mrti_jax.models.stored.find import open_model, tokenizer_folder
from mrti_jax.models.stored.folder import TOKENIZERS
from mrti_jax.models.stored.model import StoredModel
from mrti_jax.models.text_encoder import TextEncoder, side_by_side
from mrti_jax.models.tokenizer import load_tokenizer
from mrti_jax.models.unet import UNet2DConditionModel
from mrti_jax.models.vae import AutoencoderKL
from mrti_jax.parallel.mesh import fitting_mesh


@dataclasses.dataclass(frozen=True)
class StableDiffusion:
    """Tokenizers, text models, U-Net, autoencoder and scheduler config; nothing here is trained.

    Attributes:
        source: what it was loaded from.
        tokenizers, text_models: one of each, or SDXL's two.
        zeros_for_empty_prompt: guidance is away from zeros, not from the states of "".
        scheduler_config: the JSON object of `scheduler/scheduler_config.json`, brought up to date.
        dtype: of the weights and activations (norms, softmax and losses are always float32).
        mesh: the devices that hold the weights.
    """

    source: ModelSource
    tokenizers: tuple[CLIPTokenizer, ...] = dataclasses.field(repr=False)
    text_models: tuple[Frozen[CLIPTextModel], ...] = dataclasses.field(repr=False)
    unet: Frozen[UNet2DConditionModel] = dataclasses.field(repr=False)
    vae: Frozen[AutoencoderKL] = dataclasses.field(repr=False)
    scheduler_config: dict[str, Any] = dataclasses.field(repr=False)
    zeros_for_empty_prompt: bool = dataclasses.field(repr=False)
    dtype: jnp.dtype
    mesh: Mesh

    @cached_property
    def text_encoder(self) -> Frozen[TextEncoder]:
        """The text models as one encoder."""
        return side_by_side(self.text_models)

    @property
    def params(self) -> dict[str, Params]:
        """The weights of the three modules, to pass to a jitted function."""
        return {
            "text_encoder": self.text_encoder.params,
            "unet": self.unet.params,
            "vae": self.vae.params,
        }

    @classmethod
    def load(
        cls,
        path: epath.PathLike = MINI,
        *,
        revision: str | None = None,
        variant: str | None = None,
        tokenizer: str | None = None,
        prediction_type: UNetPrediction | None = None,
        dtype: jax.typing.DTypeLike | None = None,
        mesh: Mesh | None = None,
        attention: AttentionChoice = "auto",
    ) -> "StableDiffusion":
        """Reads a model from wherever it is, in whatever layout.

        Args:
            path, revision, variant, tokenizer, prediction_type: as in `ModelSource`.
            dtype: float32 or bfloat16; if not given, float32 on a CPU and bfloat16 elsewhere.
            mesh: all devices if not given; if one could not hold the weights and a batch, several
                share the weights.
            attention: how it is computed, see `Kernel`; "auto" is the fastest known way for the
                devices.

        Raises:
            UserError: a file is missing, damaged, or of a model that is not Stable Diffusion; the
                model or the devices can't be used with this dtype or attention.
        """
        source = ModelSource(
            path=os.fspath(path),
            revision=revision,
            variant=variant,
            tokenizer=tokenizer,
            prediction_type=prediction_type,
        )
        stored = open_model(source)
        configs = read_configs(stored.modules)
        try:
            check_widths(configs)
        except UserError as error:
            raise UserError(f"model '{source.name}': {error}") from None
        if dtype is None:
            device = mesh.devices.flat[0] if mesh else jax.devices()[0]
            dtype = "float32" if device.platform == "cpu" else "bfloat16"
        check_word("dtype", dtype if isinstance(dtype, str) else jnp.dtype(dtype).name, DTYPES)
        if mesh is None:
            tensors = [t for module in stored.modules.values() for t in module.tensors.values()]
            num_weights = sum(tensor.size for tensor in tensors)
            mesh = fitting_mesh(num_weights * jnp.dtype(dtype).itemsize)

        kernel = choose_kernel(attention, mesh, dtype)

        def module(part: str) -> Frozen:
            config = configs[part]
            build = partial(build_part, part, config, part_dtype(config, dtype))
            return load_module(
                config, lambda: with_kernel(build(), kernel), stored.modules[part], mesh
            )

        def read_tokenizer(part: str) -> CLIPTokenizer:
            words = stored.tokenizers[TOKENIZERS[part]]
            return load_tokenizer(tokenizer_folder(words), words.pad_token, configs[part])

        text_parts = [part for part in TEXT_PARTS if part in stored.modules]
        tokenizers = tuple(map(read_tokenizer, text_parts))
        lengths = [tokenizer.model_max_length for tokenizer in tokenizers]
        if len(set(lengths)) > 1:
            raise UserError(
                f"model '{source.name}': its tokenizers must allow prompts of the same length, not "
                f"{lengths} tokens"
            )
        return cls(
            source=source,
            tokenizers=tokenizers,
            text_models=tuple(module(part) for part in text_parts),
            unet=module("unet"),
            vae=module("vae"),
            scheduler_config=scheduler_config(stored),
            zeros_for_empty_prompt=zeros_for_empty_prompt(stored),
            dtype=jnp.dtype(dtype),
            mesh=mesh,
        )


def scheduler_config(stored: StoredModel) -> dict[str, Any]:
    """The scheduler's options. For 1.x and 2.x diffusers' pipeline overrides two of them, which
    differ in early files; for XL it does not."""
    config = dict(stored.scheduler_config)
    if "text_encoder_2" not in stored.modules:
        config |= {"steps_offset": 1, "clip_sample": False}
    return config


def zeros_for_empty_prompt(stored: StoredModel) -> bool:
    """Whether guidance is away from zeros: for XL, unless its index says otherwise."""
    told = stored.index.get("force_zeros_for_empty_prompt", True)
    return "text_encoder_2" in stored.modules and bool(told)
