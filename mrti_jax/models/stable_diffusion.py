# SPDX-License-Identifier: Apache-2.0
"""A whole frozen Stable Diffusion, read from a diffusers folder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from transformers import CLIPTokenizer

from mrti_jax.errors import UserError
from mrti_jax.models.checkpoint import load_module, read_json
from mrti_jax.models.clip import CLIPTextConfig, CLIPTextModel
from mrti_jax.models.frozen import Frozen, Params
from mrti_jax.models.unet import UNet2DConditionModel, UNetConfig
from mrti_jax.models.vae import AutoencoderKL, VAEConfig
from mrti_jax.parallel.mesh import make_mesh

MINI = "mini"


@dataclasses.dataclass(frozen=True)
class StableDiffusion:
    """Tokenizer, text encoder, U-Net, autoencoder and scheduler config; nothing here is trained.

    Attributes:
        name: what it was loaded from.
        scheduler_config: the JSON object of `scheduler/scheduler_config.json`.
        dtype: of the weights and activations (norms, softmax and losses are float32 anyway).
        mesh: the devices that hold the weights.
    """

    name: str
    tokenizer: CLIPTokenizer
    text_encoder: Frozen[CLIPTextModel]
    unet: Frozen[UNet2DConditionModel]
    vae: Frozen[AutoencoderKL]
    scheduler_config: dict[str, Any]
    dtype: jnp.dtype
    mesh: Mesh

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
        dtype: jax.typing.DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> "StableDiffusion":
        """Reads a diffusers folder, or the embedded model if `path` is "mini".

        Args:
            dtype: float32 on a CPU and bfloat16 elsewhere, if not given.
            mesh: all devices, if not given.

        Raises:
            UserError: a file is missing, damaged, or of a model that is not Stable Diffusion 1.x
                or 2.x.
        """
        folder = mini_folder() if path == MINI else epath.Path(path)
        if not folder.is_dir():
            raise UserError(f"model folder '{folder}' does not exist ('mini' is the embedded one)")
        mesh = mesh or make_mesh()
        if dtype is None:
            on_cpu = mesh.devices.flat[0].platform == "cpu"
            dtype = jnp.float32 if on_cpu else jnp.bfloat16

        def module(part: str, config_type: Any, build: type[nnx.Module]) -> Frozen:
            config = config_type.from_dict(read_json(folder / part / "config.json"))
            return load_module(
                config,
                lambda: build(config, dtype=dtype, rngs=nnx.Rngs(0)),  # type: ignore[call-arg]
                folder / part,
                mesh,
            )

        return cls(
            name=str(path),
            tokenizer=load_tokenizer(folder / "tokenizer"),
            text_encoder=module("text_encoder", CLIPTextConfig, CLIPTextModel),
            unet=module("unet", UNetConfig, UNet2DConditionModel),
            vae=module("vae", VAEConfig, AutoencoderKL),
            scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
            dtype=jnp.dtype(dtype),
            mesh=mesh,
        )


def mini_folder() -> epath.Path:
    """Where the embedded model is."""
    return epath.resource_path("mrti_jax") / "assets" / "mini"


def load_tokenizer(folder: epath.Path) -> CLIPTokenizer:
    """The tokenizer of a diffusers folder; never asks the network."""
    if not (folder / "vocab.json").exists() and not (folder / "tokenizer.json").exists():
        raise UserError(f"{folder} holds no tokenizer (vocab.json and merges.txt)")
    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
