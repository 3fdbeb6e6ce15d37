# SPDX-License-Identifier: Apache-2.0
"""The embedded model's sizes and how long each of its parts is trained."""

import dataclasses

from mrti_jax.mini.schedule import trained_betas
from mrti_jax.models.clip import CLIPTextConfig
from mrti_jax.models.unet import UNetConfig
from mrti_jax.models.vae import VAEConfig

PICTURE_SIZE = 64

VAE = VAEConfig(
    block_out_channels=(16, 32, 64),
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=4,
    force_upcast=False,
)

TEXT_WIDTH = 128

UNET = UNetConfig(
    sample_size=PICTURE_SIZE // VAE.downscale,
    in_channels=VAE.latent_channels,
    out_channels=VAE.latent_channels,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(32, 128, 160),
    layers_per_block=1,
    cross_attention_dim=TEXT_WIDTH,
    attention_head_dim=4,
    use_linear_projection=True,
    norm_num_groups=8,
)

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.42.1",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "trained_betas": trained_betas(),
}


def text_config(vocab_size: int) -> CLIPTextConfig:
    """The text encoder, for a tokenizer of `vocab_size` tokens."""
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
    )


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much each stage sees. The defaults are what the shipped weights saw."""

    vae_pictures: int = 20_000
    """Pictures drawn for the autoencoder."""
    vae_steps: int = 3_000
    """Updates of the autoencoder."""
    vae_full_steps: int = 150
    """The last of them, which see whole pictures; the others see crops."""
    vae_batch: int = 16
    """Pictures in each of them."""
    decoder_steps: int = 3_000
    """Updates of the decoder alone; 0 leaves this stage out."""
    decoder_batch: int = 8
    """Pictures in each of them."""
    text_steps: int = 1_000
    """Updates of the text encoder."""
    text_batch: int = 128
    """Captions in each of them."""
    unet_pictures: int = 80_000
    """Pictures drawn for the U-Net; each time that one is used, it gets another caption."""
    unet_steps: int = 66_700
    """Updates of the U-Net; 0 leaves this stage out."""
    unet_batch: int = 32
    """Pictures in each of them."""
    full_context_steps: int = 250
    """The last updates of the U-Net, which see all 77 tokens of a caption."""
    context_length: int = 28
    """Tokens of a caption that the earlier ones see: attention to padding is most of their cost."""
