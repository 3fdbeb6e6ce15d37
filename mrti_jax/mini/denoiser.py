# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded model's U-Net, and its text encoder along with it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int, UInt8
from transformers import CLIPTokenizer

from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.mini.fit import fit
from mrti_jax.mini.names import NAME, appearance_features, with_names
from mrti_jax.mini.recipe import SCHEDULER, UNET, VAE, Amounts
from mrti_jax.mini.text import random_captions, token_ids
from mrti_jax.mini.world import Scene
from mrti_jax.models.clip import CLIPTextModel
from mrti_jax.models.frozen import Frozen, initialise
from mrti_jax.models.unet import UNet2DConditionModel

EMPTY_CAPTIONS = 0.1
NAMED_CAPTIONS = 0.5
# Share of names replaced by a zero vector, which says nothing about the object, as where a learned
# word has no row.
EMPTY_NAMES = 0.2
# The part of diffusion time in which layout and texture are decided.
MIDDLE = (0.15, 0.86)
# Most of a picture is background; without this the objects' shapes are learned last.
OBJECT_WEIGHT = 4.0
# How much likelier a textured object is chosen than a plain one: plain ones are learned early.
TEXTURE_SHARE = 3.0


class Batch(NamedTuple):
    """One step's examples."""

    moments: Float[Array | np.ndarray, "b h w m"]
    masks: Float[Array | np.ndarray, "b h w"]
    ids: Int[Array | np.ndarray, "b l"]
    appearances: Float[Array | np.ndarray, "b f"]


def build_unet(seed: int = 0) -> Frozen[UNet2DConditionModel]:
    """An untrained U-Net in float32, whose first output is zero."""
    unet = initialise(
        UNET, lambda rngs: UNet2DConditionModel(UNET, dtype=jnp.float32, rngs=rngs), seed
    )
    unet.params["conv_out"] = jax.tree.map(jnp.zeros_like, unet.params["conv_out"])
    return unet


def latent_masks(masks: UInt8[np.ndarray, "n H W"]) -> Float[np.ndarray, "n h w"]:
    """The share of each latent's pixels that the object covers, float16."""
    n, height, width = masks.shape
    f = VAE.downscale
    parts = masks.reshape(n, height // f, f, width // f, f).mean((2, 4), dtype=np.float32)
    return (parts / 255.0).astype(np.float16)


def train_unet(
    unet: Frozen[UNet2DConditionModel],
    text: Frozen[CLIPTextModel],
    names: Float[Array | np.ndarray, "f d"],
    scenes: Sequence[Scene],
    moments: Float[np.ndarray, "n h w m"],
    masks: Float[np.ndarray, "n h w"],
    scaling_factor: float,
    tokenizer: CLIPTokenizer,
    amounts: Amounts,
    folder: epath.Path,
) -> tuple[Frozen[UNet2DConditionModel], Frozen[CLIPTextModel], Float[Array, "f d"]]:
    """Trains U-Net, text encoder and the map of names, and returns them.

    Squared error of v (Salimans & Ho 2022, appendix D), weighted more inside the object.

    Timesteps are stratified over the batch, half of them in the MIDDLE.
    """
    noise_schedule = NoiseSchedule.from_config(SCHEDULER)
    total = noise_schedule.num_train_timesteps

    name_id = tokenizer.get_vocab()[f"{NAME}</w>"]
    features = appearance_features(scenes)

    def loss(params: dict[str, Any], batch: Batch, key: Array, step: Array) -> Array:
        sample_key, noise_key, time_key = jax.random.split(key, 3)
        mean, log_variance = jnp.split(batch.moments.astype(jnp.float32), 2, axis=-1)
        std = jnp.exp(0.5 * log_variance)
        latents = scaling_factor * (mean + std * jax.random.normal(sample_key, mean.shape))
        count = len(latents)
        strata = (jnp.arange(count) + jax.random.uniform(time_key, (count,))) / count
        middle = jnp.arange(count) % 2 == 0
        times = jnp.where(middle, MIDDLE[0] + (MIDDLE[1] - MIDDLE[0]) * strata, strata)
        ids = jnp.asarray(batch.ids)
        timesteps = jnp.minimum(total * times, total - 1).astype(jnp.int32)
        noise = jax.random.normal(noise_key, latents.shape)
        noisy = noise_schedule.add_noise(latents, noise, timesteps)
        encoder = text.bind(params["text"])
        embeddings = batch.appearances @ params["names"]
        context = encoder.encode(with_names(encoder.embed(ids), ids, name_id, embeddings))
        prediction = unet.bind(params["unet"])(noisy, timesteps, context)
        error = jnp.mean((prediction - noise_schedule.target(latents, noise, timesteps)) ** 2, -1)
        fraction = step / amounts.unet_steps
        extra = (OBJECT_WEIGHT - 1.0) * jnp.clip((1.0 - fraction) / 0.35, 0.0, 1.0)
        weight = 1.0 + extra * batch.masks.astype(jnp.float32)
        return jnp.sum(weight * error) / jnp.sum(weight)

    shares = np.array([1.0 if scene.texture == "plain" else TEXTURE_SHARE for scene in scenes])
    shares /= shares.sum()

    def batch(step: int) -> Batch:
        rng = np.random.default_rng((3, step))
        chosen = rng.choice(len(scenes), size=amounts.unet_batch, p=shares)
        full = 1.0 if step < 0.3 * amounts.unet_steps else 0.75
        captions = random_captions(
            [scenes[i] for i in chosen], rng, full, EMPTY_CAPTIONS, NAMED_CAPTIONS
        )
        last = step >= amounts.unet_steps - amounts.full_context_steps
        length = text.config.max_position_embeddings if last else amounts.context_length
        ids = token_ids(captions, tokenizer, length)
        known = rng.random(len(chosen)) >= EMPTY_NAMES
        return Batch(moments[chosen], masks[chosen], ids, features[chosen] * known[:, None])

    fitted = fit(
        "unet",
        {"unet": unet.params, "text": text.params, "names": jnp.asarray(names)},
        loss,
        batch,
        steps=amounts.unet_steps,
        learning_rate=8e-4,
        folder=folder,
    )
    return (
        dataclasses.replace(unet, params=fitted["unet"]),
        dataclasses.replace(text, params=fitted["text"]),
        fitted["names"],
    )
