# SPDX-License-Identifier: Apache-2.0
"""The vectors that training starts from."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32
from transformers import CLIPTokenizer

from mrti_jax.errors import UserError
from mrti_jax.models.frozen import Frozen
from mrti_jax.models.text_encoder import TextEncoder
from mrti_jax.parallel.mesh import fetch


def initial_vectors(
    word: str,
    num_vectors: int,
    tokenizers: Sequence[CLIPTokenizer],
    text_encoder: Frozen[TextEncoder],
) -> Float32[np.ndarray, "v d"]:
    """The token embedding of a one-token word, followed by neutral vectors: the mean of all token
    embeddings.

    Raises UserError if the word is not exactly one token.
    """
    ids = [_one_token(word, tokenizer) for tokenizer in tokenizers]
    models = text_encoder.bind(text_encoder.params).models
    tables = [model.embeddings.token_embedding.embedding[...] for model in models]
    initializer = [fetch(table[i]) for i, table in zip(ids, tables, strict=True)]
    vectors = [np.concatenate(initializer)]
    if num_vectors > 1:
        # On the host, so that the mean is the same bit for bit on any number of devices.
        neutral = [fetch(table).mean(axis=0, dtype=np.float64) for table in tables]
        vectors += [np.concatenate(neutral)] * (num_vectors - 1)
    return np.stack(vectors).astype(np.float32)


def _one_token(word: str, tokenizer: CLIPTokenizer) -> int:
    ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise UserError(f"the initializer {word!r} is empty: give one word, such as 'dog'")
    if len(ids) > 1:
        tokens = tokenizer.convert_ids_to_tokens(ids)
        shown = " + ".join(token.removesuffix("</w>") for token in tokens)
        last = (word.split() or [""])[-1]
        known = len(tokenizer(last, add_special_tokens=False)["input_ids"]) == 1
        raise UserError(
            f"the initializer {word!r} is {len(ids)} tokens ({shown}), but must be one: "
            f"use a common single word such as '{last if known else 'object'}'"
        )
    return ids[0]
