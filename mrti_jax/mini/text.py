# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded model's text encoder to tell from a caption what is in the picture.

The task stands in for CLIP's contrast between texts and pictures: the state at the end of the
text has to hold every attribute of the scene, so the U-Net meets captions that already mean
something. It continues to learn together with the U-Net.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, Int
from transformers import CLIPTokenizer

from mrti_jax.mini.fit import fit
from mrti_jax.mini.names import NAME
from mrti_jax.mini.recipe import Amounts, text_config
from mrti_jax.mini.world import Scene, caption
from mrti_jax.models.clip import CLIPTextModel
from mrti_jax.models.frozen import Frozen, Params, initialise

ATTRIBUTES = (
    "shape",
    "texture",
    "colour",
    "background",
    "background_kind",
    "style",
    "size",
    "place",
    "thing",
)


def build_text_encoder(vocab_size: int, seed: int = 0) -> Frozen[CLIPTextModel]:
    """An untrained text encoder in float32."""
    config = text_config(vocab_size)
    return initialise(
        config, lambda rngs: CLIPTextModel(config, dtype=jnp.float32, rngs=rngs), seed
    )


def random_captions(
    scenes: Sequence[Scene],
    rng: np.random.Generator,
    full: float,
    empty: float,
    named: float = 0.0,
) -> list[str]:
    """A caption for each scene.

    Args:
        full: share of captions that name everything; the others leave out each attribute with a
            probability drawn anew.
        empty: share of empty captions, for classifier-free guidance (Ho & Salimans 2022).
        named: share of captions with `NAME` for the appearance.
    """
    captions = []
    for scene in scenes:
        mention = 1.0 if rng.random() < full else rng.random()
        name = NAME if rng.random() < named else None
        captions.append("" if rng.random() < empty else caption(scene, rng, mention, name))
    return captions


def token_ids(captions: list[str], tokenizer: CLIPTokenizer, length: int) -> Int[np.ndarray, "b l"]:
    """Token ids, padded or cut to `length`."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=length)
    return np.asarray(batch.input_ids, np.int32)


def train_text_encoder(
    scenes: Sequence[Scene], tokenizer: CLIPTokenizer, amounts: Amounts, folder: epath.Path
) -> Frozen[CLIPTextModel]:
    """Cross-entropy of every attribute, read off linearly from the state of the end token."""
    text = build_text_encoder(len(tokenizer))
    values = [[str(getattr(scene, name)) for scene in scenes] for name in ATTRIBUTES]
    classes, labels = zip(*(np.unique(v, return_inverse=True) for v in values), strict=True)
    targets = np.stack(labels, axis=1).astype(np.int32)
    sizes = [len(c) for c in classes]
    ends = np.cumsum(sizes)[:-1]
    end_token = tokenizer.eos_token_id
    head = {
        "kernel": jnp.zeros((text.config.hidden_size, sum(sizes))),
        "bias": jnp.zeros(sum(sizes)),
    }

    def loss(
        params: dict[str, Params], batch: tuple[Array, Array], key: Array, step: Array
    ) -> Array:
        ids, target = batch
        module = text.bind(params["text"])
        states = module.encode(module.embed(ids))
        last = jnp.argmax(ids == end_token, axis=1)
        end = jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
        logits = jnp.split(end @ params["head"]["kernel"] + params["head"]["bias"], ends, axis=-1)
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(x, target[:, i])
            for i, x in enumerate(logits)
        ]
        return jnp.mean(jnp.stack(losses))

    def batch(step: int) -> tuple[Int[np.ndarray, "b l"], Int[np.ndarray, "b a"]]:
        rng = np.random.default_rng((2, step))
        chosen = rng.integers(len(scenes), size=amounts.text_batch)
        captions = random_captions([scenes[i] for i in chosen], rng, full=0.6, empty=0.0)
        return token_ids(captions, tokenizer, amounts.context_length), targets[chosen]

    fitted = fit(
        "text_encoder",
        {"text": text.params, "head": head},
        loss,
        batch,
        steps=amounts.text_steps,
        learning_rate=2e-3,
        folder=folder,
    )
    return dataclasses.replace(text, params=fitted["text"])
