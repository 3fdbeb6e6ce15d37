# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.5 with random weights, for measurements that need its shape alone."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

from mrti_jax.models.stored.find import mini_folder


@contextmanager
def model_folder(given: str | None) -> Iterator[str]:
    """The folder given, or a temporary one with random weights (4.3 GB)."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        write_sd15(Path(folder))
        yield folder


def write_sd15(folder: Path) -> None:
    """A diffusers folder, in float32. Its tokenizer is the embedded model's."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    levels = 4
    UNet2DConditionModel(sample_size=64, cross_attention_dim=768).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        sample_size=512,
    ).save_pretrained(folder / "vae")
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_attention_heads=12
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    copytree(mini_folder() / "tokenizer", folder / "tokenizer")
