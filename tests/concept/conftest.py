# SPDX-License-Identifier: Apache-2.0
"""A tokenizer of a few words and a small text encoder, made here."""

import json
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from mrti_jax.concept import Concept, equal_boundaries
from mrti_jax.models.clip import CLIPTextConfig, CLIPTextModel
from mrti_jax.models.frozen import Frozen, initialise
from mrti_jax.models.text_encoder import TextEncoder, side_by_side

WORDS = ["a", "photo", "of", "the", "dog", "cat", "red", "house", "painting", "in", "style", "and"]
LENGTH = 20
WIDTH = 16


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """CLIP's kind of byte pair encoding, whose only whole words are WORDS."""
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            tokens.append(pieces[0])
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    lines = [" ".join(merge) for merge in dict.fromkeys(merges)]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH})
    )
    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


@pytest.fixture(scope="session")
def text_model(tokenizer: CLIPTokenizer) -> Frozen[CLIPTextModel]:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
    )
    return initialise(config, lambda rngs: CLIPTextModel(config, dtype=jnp.float32, rngs=rngs), 0)


@pytest.fixture(scope="session")
def text_encoder(text_model: Frozen[CLIPTextModel]) -> Frozen[TextEncoder]:
    return side_by_side([text_model])


@pytest.fixture(scope="session")
def make_concept() -> Callable[..., Concept]:
    def make(
        name: str = "jane",
        num_buckets: int = 10,
        num_vectors: int = 1,
        width: int = WIDTH,
        num_train_timesteps: int = 1000,
        **metadata: str,
    ) -> Concept:
        rng = np.random.default_rng(len(name) + 100 * num_buckets + num_vectors)
        table = rng.standard_normal((num_buckets, num_vectors, width), np.float32)
        boundaries = equal_boundaries(num_buckets, num_train_timesteps)
        return Concept(name, table, boundaries, metadata)

    return make
