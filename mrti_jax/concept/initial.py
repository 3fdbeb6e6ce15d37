# SPDX-License-Identifier: Apache-2.0
"""The vectors that training starts from."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from transformers import CLIPTokenizer

from mrti_jax.errors import UserError
from mrti_jax.models.frozen import Frozen
from mrti_jax.models.text_encoder import TextEncoder


def initial_vectors(
    word: str,
    num_vectors: int,
    tokenizers: Sequence[CLIPTokenizer],
    text_encoder: Frozen[TextEncoder],
) -> Float[Array, "v d"]:
    """The token embedding of a one-token word and, after it, neutral vectors: the mean of all token
    embeddings. float32.

    Raises UserError if the word is not exactly one token.
    """
    ids = np.asarray([[_one_token(word, tokenizer) for tokenizer in tokenizers]], np.int32)
    initializer, neutral = _embed(text_encoder.graphdef, text_encoder.params, ids)
    return jnp.stack([initializer] + [neutral] * (num_vectors - 1))


def _one_token(word: str, tokenizer: CLIPTokenizer) -> list[int]:
    ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise UserError(f"the initializer {word!r} is empty: give one word, such as 'dog'")
    if len(ids) > 1:
        tokens = tokenizer.convert_ids_to_tokens(ids)
        shown = " + ".join(token.removesuffix("</w>") for token in tokens)
        whole = [token.removesuffix("</w>") for token in tokens if token.endswith("</w>")]
        advice = f"such as '{whole[-1]}'" if whole and len(whole[-1]) > 2 else "such as 'object'"
        raise UserError(
            f"the initializer {word!r} is {len(ids)} tokens ({shown}), it must be one: "
            f"use a common single word {advice}"
        )
    return ids


@functools.partial(jax.jit, static_argnums=0)
def _embed(
    graphdef: nnx.GraphDef, params: Any, ids: Int[Array, "1 e 1"]
) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
    """The ids' token embedding and the vocabulary's mean, those of all text models in a row."""
    encoder = nnx.merge(graphdef, nnx.State(params))
    one = [part[0, 0].astype(jnp.float32) for part in encoder.embed(ids)]
    tables = [model.embeddings.token_embedding.embedding[...] for model in encoder.models]
    mean = [jnp.mean(table, axis=0, dtype=jnp.float32) for table in tables]
    return jnp.concatenate(one), jnp.concatenate(mean)
