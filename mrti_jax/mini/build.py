# SPDX-License-Identifier: Apache-2.0
"""Builds the embedded model from scratch: `python -m mrti_jax.mini.build`.

Hours on two CPU cores, minutes on a GPU. Every stage saves its state in the work folder, and the
same command resumes where it was stopped.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float
from transformers import CLIPTokenizer

from mrti_jax.commands import run_command
from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.errors import UserError
from mrti_jax.files import write_whole
from mrti_jax.mini import tokenizer as tokenizer_stage
from mrti_jax.mini.autoencoder import encode_pictures, train_vae, unit_scale
from mrti_jax.mini.decoder import train_decoder
from mrti_jax.mini.denoiser import build_unet, latent_masks, train_unet
from mrti_jax.mini.names import FILE, initial_map, load_map, save_map
from mrti_jax.mini.pictures import draw, random_scenes
from mrti_jax.mini.recipe import SCHEDULER, Amounts
from mrti_jax.mini.text import train_text_encoder
from mrti_jax.mini.world import Scene
from mrti_jax.models.clip import CLIPTextModel
from mrti_jax.models.export import save_pipeline
from mrti_jax.models.frozen import Frozen
from mrti_jax.models.source import MINI
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.stored.find import local_path
from mrti_jax.models.stored.weights import read_json
from mrti_jax.models.tokenizer import load_tokenizer
from mrti_jax.models.unet import UNet2DConditionModel
from mrti_jax.models.vae import AutoencoderKL
from mrti_jax.parallel.accelerator import check_accelerator
from mrti_jax.parallel.mesh import make_mesh

VAE_SEED, UNET_SEED = 11, 12
SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class Build:
    """What to build and where."""

    out: str = "runs/mini"
    """The diffusers folder to write."""
    work: str = "runs/mini_work"
    """Checkpoints and encoded pictures, of this build only; may be deleted afterwards."""
    start: str | None = None
    """The folder of a model built earlier, whose decoder, U-Net, text encoder and map of names are
    trained further while tokenizer and encoder stay as they are; `mini` is the embedded one. If not
    given, everything is trained from scratch."""
    amounts: Amounts = dataclasses.field(default_factory=Amounts)


class Parts(NamedTuple):
    """What is trained; `names` is the map of names, [f, d]."""

    vae: Frozen[AutoencoderKL]
    unet: Frozen[UNet2DConditionModel]
    text: Frozen[CLIPTextModel]
    names: Float[jax.Array | np.ndarray, "f d"]


def claim(work: epath.Path, settings: Build) -> None:
    """Writes down in the work folder which build it is of.

    Raises UserError if it is another build's, or holds something else.
    """
    mine = {"start": settings.start, **dataclasses.asdict(settings.amounts)}
    path = work / SETTINGS
    if not path.exists():
        if work.exists() and (not work.is_dir() or any(work.iterdir())):
            raise UserError(f"--work {work} holds something else: name a new or empty folder")
        write_whole(path, json.dumps(mine, indent=1).encode())
    told = read_json(path)
    for name, value in mine.items():
        if told.get(name) != value:
            raise UserError(
                f"--work {work} is of a build whose {name} is {told.get(name)!r}, not {value!r}: "
                "give the same settings to continue it, or name another folder"
            )


def check(settings: Build) -> None:
    """Raises UserError for what no build could be done with, or would be written over."""
    if settings.out == MINI:
        raise UserError(
            f"--out {MINI}: that name is the embedded model's, so write ./{MINI} for the folder, "
            "and to use it"
        )
    for name, value in dataclasses.asdict(settings.amounts).items():
        least = 0 if name.endswith("_steps") else 1
        if value < least:
            raise UserError(f"amounts.{name} is {value}, but must be at least {least}")
    out = epath.Path(settings.out)
    if out.exists() and not (out / FILE).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} holds something else: name a new or empty folder")


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


def vae_data(amounts: Amounts, work: epath.Path) -> dict[str, np.ndarray]:
    """The pictures that the autoencoder is trained on, and the masks of their objects."""

    def drawn() -> dict[str, np.ndarray]:
        pictures, masks = draw(amounts.vae_pictures, VAE_SEED)
        return {"pictures": pictures, "masks": masks}

    return cached(work / "vae_pictures.npz", drawn)


def earlier_parts(start: str) -> Parts:
    """The parts of a model built earlier. Raises UserError if this recipe can't train it on."""
    one_device = make_mesh(jax.devices()[:1])
    sd = StableDiffusion.load(start, dtype=np.float32, mesh=one_device)
    old, new = map(NoiseSchedule.from_config, (sd.scheduler_config, SCHEDULER))
    if not np.array_equal(old.alphas_cumprod, new.alphas_cumprod):
        raise UserError(f"'{start}' has a different noise schedule from this recipe")
    return Parts(sd.vae, sd.unet, sd.text_models[0], load_map(start))


def base_parts(
    amounts: Amounts, work: epath.Path, scenes: Sequence[Scene], tokenizer: CLIPTokenizer
) -> Parts:
    """The parts that joint training starts from, trained from scratch, and an untrained U-Net."""
    pictures = vae_data(amounts, work)["pictures"]
    vae = unit_scale(train_vae(pictures, amounts, work), pictures)
    text = train_text_encoder(scenes, tokenizer, amounts, work)
    names = initial_map(text.params["embeddings"]["token_embedding"]["embedding"])
    return Parts(vae, build_unet(), text, names)


def build(settings: Build) -> None:
    """Trains tokenizer, autoencoder, text encoder and U-Net, and writes the pipeline."""
    check(settings)
    check_accelerator()
    amounts, work = settings.amounts, epath.Path(settings.work).resolve()
    earlier = None if settings.start is None else earlier_parts(settings.start)
    claim(work, settings)
    if settings.start is None:
        tokenizer_folder = work / "tokenizer"
        tokenizer_stage.write(tokenizer_folder)
    else:
        tokenizer_folder = local_path(settings.start) / "tokenizer"
    tokenizer = load_tokenizer(epath.Path(tokenizer_folder))
    scenes = list(random_scenes(amounts.unet_pictures, UNET_SEED))
    vae, unet, text, names = earlier or base_parts(amounts, work, scenes, tokenizer)
    if amounts.decoder_steps:
        pictures, masks = (vae_data(amounts, work)[key] for key in ("pictures", "masks"))
        moments = encode_pictures(vae, pictures)
        vae = train_decoder(vae, pictures, masks, moments, amounts, work)

    def encoded() -> dict[str, np.ndarray]:
        pictures, masks = draw(amounts.unet_pictures, UNET_SEED)
        return {"moments": encode_pictures(vae, pictures), "masks": latent_masks(masks)}

    if amounts.unet_steps:
        data = cached(work / "unet_latents.npz", encoded)
        latents, masks = data["moments"], data["masks"]
        scale = vae.config.scaling_factor
        unet, text, names = train_unet(
            unet, text, names, scenes, latents, masks, scale, tokenizer, amounts, work
        )
    out = epath.Path(settings.out)
    save_pipeline(
        out,
        [tokenizer_folder],
        [text],
        unet,
        vae,
        SCHEDULER,
        dtype=np.float16,
    )
    save_map(names, out)


def main() -> int:
    """Runs the command and returns its exit status."""
    return run_command(
        Build, build, None, prog="python -m mrti_jax.mini.build", description=str(__doc__)
    )


if __name__ == "__main__":
    sys.exit(main())
