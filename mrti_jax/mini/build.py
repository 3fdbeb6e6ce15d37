# SPDX-License-Identifier: Apache-2.0
"""Builds the embedded model from nothing: `python -m mrti_jax.mini.build`.

Hours on two CPU cores, minutes on a GPU. Every stage saves its state in the work folder, and the
same command goes on where it was stopped.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from etils import epath
from jaxtyping import Float
from transformers import CLIPTokenizer

from mrti_jax.mini import tokenizer as tokenizer_stage
from mrti_jax.mini.autoencoder import encode_pictures, train_vae, unit_scale
from mrti_jax.mini.denoiser import latent_masks, train_unet
from mrti_jax.mini.pictures import draw, scenes
from mrti_jax.mini.recipe import SCHEDULER, Amounts
from mrti_jax.mini.text import train_text_encoder
from mrti_jax.models.export import save_pipeline

VAE_SEED, UNET_SEED = 11, 12


@dataclasses.dataclass(frozen=True)
class Build:
    """What to build and where.

    Attributes:
        out: the diffusers folder to write.
        work: checkpoints and encoded pictures; may be deleted afterwards.
    """

    out: str = "mini"
    work: str = "mini_work"
    amounts: Amounts = dataclasses.field(default_factory=Amounts)


def cached(
    path: epath.Path, make: Callable[[], dict[str, Float[np.ndarray, "..."]]]
) -> dict[str, np.ndarray]:
    """The arrays of `make()`, from `path` if an earlier run wrote them there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name("partial_" + path.name)
        np.savez(partial, **make())  # type: ignore[arg-type]
        partial.replace(path)
    with np.load(path) as arrays:
        return dict(arrays)


def build(settings: Build) -> None:
    """Trains tokenizer, autoencoder, text encoder and U-Net, and writes the pipeline."""
    amounts, work = settings.amounts, epath.Path(settings.work).resolve()
    tokenizer_stage.write(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(str(work / "tokenizer"))

    vae_data = cached(
        work / "vae_pictures.npz", lambda: {"pictures": draw(amounts.vae_pictures, VAE_SEED)[0]}
    )
    vae = train_vae(vae_data["pictures"], amounts, work)

    def encoded() -> dict[str, np.ndarray]:
        pictures, masks = draw(amounts.unet_pictures, UNET_SEED)
        return {"moments": encode_pictures(vae, pictures), "masks": latent_masks(masks)}

    data = cached(work / "unet_latents.npz", encoded)
    vae = unit_scale(vae, data["moments"])

    unet_scenes = list(scenes(amounts.unet_pictures, UNET_SEED))
    text = train_text_encoder(unet_scenes, tokenizer, amounts, work)
    unet, text = train_unet(
        text,
        unet_scenes,
        data["moments"],
        data["masks"],
        vae.config.scaling_factor,
        tokenizer,
        amounts,
        work,
    )
    save_pipeline(
        epath.Path(settings.out), work / "tokenizer", text, unet, vae, SCHEDULER, dtype=np.float16
    )


def main() -> None:
    """The command."""
    import tyro

    build(tyro.cli(Build, description=__doc__))


if __name__ == "__main__":
    main()
