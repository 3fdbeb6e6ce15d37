# SPDX-License-Identifier: Apache-2.0
"""Text encoder, U-Net and VAE against PyTorch's transformers and diffusers, from the same files."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from tiny import Kind, random_module, text_config, unet_config, vae_config

from mrti_jax.models import export
from mrti_jax.models.checkpoint import save_module
from mrti_jax.models.clip import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from mrti_jax.models.frozen import Frozen
from mrti_jax.models.text_encoder import TextStates, side_by_side
from mrti_jax.models.unet import UNet2DConditionModel, UNetConfig
from mrti_jax.models.vae import AutoencoderKL, VAEConfig

pytestmark = pytest.mark.torch

NAME = "model.safetensors"
# float32 sums of some hundred terms in another order: about 1e-6 of the largest was measured.
TOLERANCE = 1e-5

# Three levels, two blocks each, heads per level: what the tiny pipelines leave out.
DEEP_UNET = UNetConfig(
    block_out_channels=(32, 64, 96),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=2,
    cross_attention_dim=24,
    attention_head_dim=(2, 4, 8),
    use_linear_projection=True,
    norm_num_groups=16,
)
# As in SDXL: no attention in the first level, more transformer blocks further down.
DEEP_XL_UNET = UNetConfig(
    block_out_channels=(16, 32, 64),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=2,
    transformer_layers_per_block=(1, 2, 3),
    cross_attention_dim=24,
    attention_head_dim=(2, 4, 8),
    use_linear_projection=True,
    norm_num_groups=8,
    addition_embed_type="text_time",
    addition_time_embed_dim=12,
    projection_class_embeddings_input_dim=10 + 6 * 12,
)
OTHER_TIME_UNET = UNetConfig(
    **{**vars(unet_config("sd1")), "flip_sin_to_cos": False, "freq_shift": 1}
)
INPAINTING_UNET = UNetConfig(**{**vars(unet_config("sd1")), "in_channels": 9})
DEEP_VAE = VAEConfig(
    block_out_channels=(16, 16, 32, 32), layers_per_block=2, norm_num_groups=8, latent_channels=4
)


def save(folder: Path, module: Frozen, config: dict[str, Any], name: str) -> Path:
    save_module(module.params, epath.Path(folder / name), np.float32)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_close(ours: jax.Array, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_text_encoder(kind: Kind, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config: CLIPTextConfig = text_config(kind, 100)
    ours = random_module(config, CLIPTextModel)
    description = export.text_encoder_config(ours) | {"bos_token_id": 98, "eos_token_id": 99}
    save(tmp_path, ours, description, NAME)
    theirs = transformers.CLIPTextModel.from_pretrained(tmp_path).eval()
    ids = np.random.default_rng(0).integers(0, 100, (3, 77)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids).long()).last_hidden_state.numpy()

    def run(params: Any, ids: jax.Array) -> jax.Array:
        encoder = ours.bind(params)
        return encoder.encode(encoder.embed(ids))

    assert_close(jax.jit(run)(ours.params, ids), expected)


@pytest.mark.parametrize("eos", [2, 99])
def test_pooled_text(eos: int, tmp_path: Path) -> None:
    """The projection of SDXL's second text model, and the states before its last layer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = text_config("xl", 100)
    ours = random_module(config, CLIPTextModelWithProjection)
    description = export.text_encoder_config(ours) | {"bos_token_id": 98, "eos_token_id": eos}
    save_module(export.text_model_params(ours.params), epath.Path(tmp_path / NAME), np.float32)
    (tmp_path / "config.json").write_text(json.dumps(description))
    theirs = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    ids = np.random.default_rng(0).integers(0, 98, (3, 77)).astype(np.int32)
    end = np.asarray([5, 30, 76], np.int32)
    ids[np.arange(3), end] = 99
    ids[0, 40] = 99  # padding may be the end-of-text token again
    with torch.no_grad():
        expected = theirs(torch.tensor(ids).long(), output_hidden_states=True)

    def run(model: Frozen, number: int) -> TextStates:
        def states(params: Any, ids: jax.Array, end: jax.Array) -> TextStates:
            encoder = model.bind(params)
            return encoder.encode(encoder.embed(ids), end)

        each = np.stack([ids] * number, axis=1), np.stack([end] * number, axis=1)
        return jax.jit(states)(model.params, *each)

    single, double = run(side_by_side([ours]), 1), run(side_by_side([ours, ours]), 2)
    assert_close(single.hidden, expected.last_hidden_state.numpy())
    before_last = expected.hidden_states[-2].numpy()
    assert_close(double.hidden, np.concatenate([before_last, before_last], axis=-1))
    for states in (single, double):
        assert states.pooled is not None
        assert_close(states.pooled, expected.text_embeds.numpy())


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (unet_config("xl"), (8, 8)),
        (DEEP_XL_UNET, (6, 9)),
        (unet_config("sd1"), (8, 8)),
        (unet_config("sd1"), (7, 5)),
        (unet_config("sd2"), (8, 8)),
        (DEEP_UNET, (9, 14)),
        (INPAINTING_UNET, (8, 8)),
        (OTHER_TIME_UNET, (8, 8)),
    ],
    ids=["xl", "xl-deep", "sd1", "sd1-odd", "sd2", "deep-odd", "inpainting", "time"],
)
def test_unet(config: UNetConfig, size: tuple[int, int], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    ours = random_module(config, UNet2DConditionModel)
    save(tmp_path, ours, export.unet_config(config), export.WEIGHTS)
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path).eval()
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, *size, config.in_channels), np.float32)
    context = rng.standard_normal((2, 11, config.cross_attention_dim), np.float32)
    timesteps = np.asarray([981.0, 3.5], np.float32)
    more: dict[str, np.ndarray] = {}
    if config.pooled_dim is not None:
        pooled = rng.standard_normal((2, config.pooled_dim), np.float32)
        sizes = np.asarray([[1024, 768, 0, 12, 512, 512], [333, 444, 7, 0, 64, 32]], np.float32)
        more = {"text_embeds": pooled, "time_ids": sizes}
    with torch.no_grad():
        expected = theirs(
            torch.tensor(latents.transpose(0, 3, 1, 2)),
            torch.tensor(timesteps),
            torch.tensor(context),
            added_cond_kwargs={name: torch.tensor(value) for name, value in more.items()},
        ).sample.numpy()
    result = jax.jit(lambda params, *args: ours.bind(params)(*args))(
        ours.params, latents, timesteps, context, *more.values()
    )
    assert_close(result, expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("config", [vae_config(), DEEP_VAE], ids=["tiny", "deep"])
def test_vae(config: VAEConfig, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    ours = random_module(config, AutoencoderKL)
    save(tmp_path, ours, export.vae_config(config, 64), export.WEIGHTS)
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path).eval()
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 5, 7, 4), np.float32)
    pixels = rng.uniform(-1, 1, (2, 40, 56, 3)).astype(np.float32)
    with torch.no_grad():
        decoded = theirs.decode(torch.tensor(latents.transpose(0, 3, 1, 2))).sample.numpy()
        moments = theirs.encode(torch.tensor(pixels.transpose(0, 3, 1, 2))).latent_dist.parameters
    decode = jax.jit(lambda params, x: ours.bind(params).decode(x))
    encode = jax.jit(lambda params, x: ours.bind(params).encode(x))
    assert_close(decode(ours.params, latents), decoded.transpose(0, 2, 3, 1))
    assert_close(encode(ours.params, pixels), moments.numpy().transpose(0, 2, 3, 1))
