# SPDX-License-Identifier: Apache-2.0
"""The compiled loop against a plain one that re-encodes the prompt at every step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import LATENT_SIZE, tiny_concept

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling import generate

STEPS, SEED, GUIDANCE, K = 12, 5, 4.0, 4

# Which row a word uses at bucket b, according to the paper's section 3.
ROW: dict[str, Callable[[int], int | None]] = {
    "<jane>": lambda b: b,
    f"<jane[{K}]>": lambda b: max(b, K),
    f"<jane({K})>": lambda b: b if b >= K else None,
    f"<jane|{K}|>": lambda b: K,
}


def ddim_by_hand(
    sd: StableDiffusion,
    embed: Callable[[int], np.ndarray],
    scale: Callable[[int], float],
) -> np.ndarray:
    """DDIM (Song et al. 2020, eq. 12) with the guidance `scale(t)`; `embed(t)`: the prompt's
    embeddings [L, D]."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    length = sd.tokenizers[0].model_max_length
    empty = sd.tokenizers[0]("", padding="max_length", max_length=length)["input_ids"]

    @jax.jit
    def predict(
        params: Any, x: jax.Array, t: jax.Array, embeddings: jax.Array, scale: float
    ) -> jax.Array:
        encoder = sd.text_models[0].bind(params["text_model"])
        both = jnp.stack([encoder.embed(jnp.asarray([empty]))[0], embeddings])
        unet = sd.unet.bind(params["unet"])
        out = unet(jnp.stack([x, x]), jnp.stack([t, t]), encoder.encode(both))
        return out[0] + scale * (out[1] - out[0])

    params = {"unet": sd.unet.params, "text_model": sd.text_models[0].params}
    key = jax.random.fold_in(jax.random.key(SEED), 0)
    x = np.asarray(jax.random.normal(key, (LATENT_SIZE, LATENT_SIZE, 4)), np.float64)
    for t in [STEP * (1000 // STEPS) + 1 for STEP in reversed(range(STEPS))]:
        now = jnp.asarray(x, jnp.float32), jnp.asarray(t)
        epsilon = np.asarray(predict(params, *now, embed(t), scale(t)), np.float64)
        following = alphas_cumprod[max(t - 1000 // STEPS, 0)]
        x0 = (x - np.sqrt(1 - alphas_cumprod[t]) * epsilon) / np.sqrt(alphas_cumprod[t])
        x = np.sqrt(following) * x0 + np.sqrt(1 - following) * epsilon
    latents = jnp.asarray(x / sd.vae.config.scaling_factor, jnp.float32)[None]
    pixels = jax.jit(lambda p, z: sd.vae.bind(p).decode(z))(sd.params["vae"], latents)[0]
    return np.clip(np.asarray(pixels) / 2 + 0.5, 0, 1) * 255


@pytest.mark.parametrize("word", ROW)
def test_loop_equals_encoding_at_every_step(word: str, tiny_sd: StableDiffusion) -> None:
    compare(word, tiny_sd, (0, 1))


@pytest.mark.parametrize("interval", [(0.3, 1), (0, 0.4), (0.25, 0.7)])
def test_guidance_in_an_interval_of_diffusion_time(
    interval: tuple[float, float], tiny_sd: StableDiffusion
) -> None:
    compare("<jane>", tiny_sd, interval)


def compare(word: str, sd: StableDiffusion, interval: tuple[float, float]) -> None:
    concept = tiny_concept(num_vectors=2)
    tokenizer = sd.tokenizers[0]
    before = tokenizer("a photo of", add_special_tokens=False)["input_ids"]
    after = tokenizer("in red", add_special_tokens=False)["input_ids"]
    table = np.asarray(sd.text_models[0].params["embeddings"]["token_embedding"]["embedding"])

    def embed(t: int) -> np.ndarray:
        row = ROW[word](t * 10 // 1000)
        vectors = np.zeros((2, table.shape[1])) if row is None else concept.embeddings[row]
        rows = [table[[tokenizer.bos_token_id, *before]], vectors, table[after]]
        padding = tokenizer.model_max_length - sum(map(len, rows))
        return np.concatenate([*rows, table[[tokenizer.eos_token_id] * padding]], dtype=np.float32)

    (picture,) = generate(
        sd,
        f"a photo of {word} in red",
        [concept],
        seeds=SEED,
        num_steps=STEPS,
        guidance_scale=GUIDANCE,
        guidance_interval=interval,
        sampler="ddim",
        batch_size=2,
    )
    inside = range(round(1000 * interval[0]), round(1000 * interval[1]))
    expected = ddim_by_hand(sd, embed, lambda t: GUIDANCE if t in inside else 1.0)
    # Half a grey level from rounding to whole ones, the rest from float32 in another order.
    assert np.abs(picture.image - expected).max() < 0.6
