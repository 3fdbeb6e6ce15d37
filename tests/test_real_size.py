# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.5 at its real size, with random weights, on a CPU: it trains and samples.

Takes some 12 GB of memory and, on one core of an AMD EPYC, 100 s to train and 47 s to draw (with
compiling).
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SCHEDULERS, random_module

from mrti_jax.models.clip import CLIPTextConfig, CLIPTextModel
from mrti_jax.models.source import ModelSource
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.stored.find import mini_folder
from mrti_jax.models.tokenizer import load_tokenizer
from mrti_jax.models.unet import UNet2DConditionModel, UNetConfig
from mrti_jax.models.vae import AutoencoderKL, VAEConfig
from mrti_jax.parallel.mesh import make_mesh
from mrti_jax.sampling import generate
from mrti_jax.training import Config, learn
from mrti_jax.training.config import DataConfig, OptimizerConfig, TrainConfig

SIZE = 256


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*(only one image|learned nothing|steps skip bucket)")
def test_sd15_trains_and_samples() -> None:
    sd = StableDiffusion(
        source=ModelSource(path="sd15-random"),
        tokenizers=(load_tokenizer(mini_folder() / "tokenizer"),),
        text_models=(
            random_module(
                CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
                CLIPTextModel,
            ),
        ),
        unet=random_module(UNetConfig(cross_attention_dim=768), UNet2DConditionModel),
        vae=random_module(VAEConfig(), AutoencoderKL),
        scheduler_config=SCHEDULERS["sd1"],
        zeros_for_empty_prompt=False,
        dtype=jnp.dtype(jnp.float32),
        mesh=make_mesh(jax.devices()[:1]),
    )
    weights = sum(leaf.size for leaf in jax.tree.leaves(sd.params))
    assert weights == 1_066_235_307  # 123,060,480 + 859,520,964 + 83,653,863
    picture = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    config = Config(
        data=DataConfig(size=SIZE),
        optimizer=OptimizerConfig(schedule="constant", warmup_steps=0, sharing=0.0),
        train=TrainConfig(steps=2, batch_size=1),
    )
    start = time.perf_counter()
    jane = learn(sd, [picture], name="jane", initializer="star", config=config)
    trained = time.perf_counter()
    (drawn,) = generate(
        sd, "a photo of a <jane>", [jane], num_steps=2, height=SIZE, width=SIZE, sampler="ddim"
    )
    print(f"trained {trained - start:.0f} s, sampled {time.perf_counter() - trained:.0f} s")
    assert np.isfinite(jane.embeddings).all() and drawn.image.std() > 1
    assert len(np.unique(jane.embeddings, axis=0)) == 3  # two examples moved two rows
