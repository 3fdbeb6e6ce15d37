# SPDX-License-Identifier: Apache-2.0
"""Prompts -> text states for every interval ("slot") of diffusion time, each distinct one once."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Int32
from transformers import CLIPTokenizer

from mrti_jax.concept.buckets import equal_boundaries
from mrti_jax.concept.schemes import read_prompt
from mrti_jax.concept.table import Concept
from mrti_jax.concept.tokens import NOTHINGS, Nothing, Tokens, tokenize
from mrti_jax.errors import UserError, warn
from mrti_jax.models.frozen import Frozen
from mrti_jax.parallel.mesh import fetch

# Sequences per call of the text encoder: one shape for all prompts, so one compilation.
ENCODE_BATCH = 8


def slot_boundaries(
    concepts: Iterable[Concept], num_train_timesteps: int, num_slots: int = 10
) -> Int32[np.ndarray, "edges"]:
    """Edges of the slots, from 0 to T: every boundary of every concept is one, at least 10 slots.

    Tables of 1, 2, 5 or 10 equal buckets, and no table at all, give the same 10 equal slots, so
    programs compiled for one serve the others. Give all the concepts that are loaded, not only
    those of one prompt. Raises UserError for a concept of another number of training timesteps.
    """
    edges = {0, num_train_timesteps}
    for concept in concepts:
        _check_timesteps(concept, num_train_timesteps)
        edges |= set(concept.boundaries.tolist())
    num_slots = min(num_slots, num_train_timesteps)
    equal = equal_boundaries(num_slots, num_train_timesteps)
    if edges <= set(equal.tolist()):
        return equal
    ordered = sorted(edges)
    while len(ordered) <= num_slots:
        widest = int(np.argmax(np.diff(ordered)))
        ordered.insert(widest + 1, (ordered[widest] + ordered[widest + 1]) // 2)
    return np.asarray(ordered, np.int32)


def encode_prompts(
    texts: Sequence[str],
    concepts: Mapping[str, Concept],
    tokenizer: CLIPTokenizer,
    text_encoder: Frozen,
    boundaries: Int32[np.ndarray, "edges"],
    *,
    nothing: Nothing = "zero",
    official_semi: bool = False,
) -> Float[Array, "slots b l d"]:
    """Text states of every prompt in every slot, in the text encoder's dtype.

    `boundaries`: from `slot_boundaries`. The text encoder runs once per distinct prompt and rows.
    Warns of prompts that are too long. Raises UserError for malformed prompts, unknown words,
    buckets that a table lacks, and concepts of another text encoder or schedule.
    """
    if not texts:
        raise UserError("there is no prompt to encode")
    if nothing not in NOTHINGS:
        raise UserError(f"unknown kind of nothing {nothing!r}, known are {', '.join(NOTHINGS)}")
    config = text_encoder.config
    if tokenizer.model_max_length > config.max_position_embeddings:
        raise UserError(
            f"the tokenizer's model_max_length {tokenizer.model_max_length} is above the text "
            f"encoder's {config.max_position_embeddings} positions: the model folder is wrong"
        )
    for concept in concepts.values():
        _check_width(concept, config.hidden_size)
        _check_timesteps(concept, int(boundaries[-1]))

    distinct: dict[bytes, int] = {}
    sequences: list[Tokens] = []
    index = np.zeros((len(boundaries) - 1, len(texts)), np.int32)
    for column, text in enumerate(texts):
        prompt = read_prompt(text, concepts)
        longest = None
        for slot, timestep in enumerate(boundaries[:-1].tolist()):
            tokens = tokenize(
                prompt,
                timestep,
                concepts,
                tokenizer,
                width=config.hidden_size,
                nothing=nothing,
                official_semi=official_semi,
            )
            if longest is None or tokens.num_cut > longest.num_cut:
                longest = tokens
            index[slot, column] = distinct.setdefault(tokens.key, len(sequences))
            if index[slot, column] == len(sequences):
                sequences.append(tokens)
        if longest is not None and longest.num_cut:
            warn(
                f"a prompt is longer than {tokenizer.model_max_length} tokens, "
                f"cut off: {longest.cut}"
            )
    # On the host, so that another number of sequences compiles nothing.
    return jnp.asarray(_encode_all(sequences, text_encoder)[index])


def _encode_all(sequences: Sequence[Tokens], text_encoder: Frozen) -> np.ndarray:
    """Text states [S, L, D] of S sequences, in batches of ENCODE_BATCH."""
    batches = []
    for start in range(0, len(sequences), ENCODE_BATCH):
        batch = list(sequences[start : start + ENCODE_BATCH])
        batch += batch[-1:] * (ENCODE_BATCH - len(batch))
        batches.append(
            _encode_batch(
                text_encoder.graphdef,
                text_encoder.params,
                np.stack([tokens.ids for tokens in batch]),
                np.stack([tokens.mask for tokens in batch]),
                np.stack([tokens.vectors for tokens in batch]),
            )
        )
    return np.concatenate([fetch(states) for states in batches])[: len(sequences)]


@functools.partial(jax.jit, static_argnums=0)
def _encode_batch(
    graphdef: nnx.GraphDef,
    params: Any,
    ids: Int[Array, "b l"],
    mask: Bool[Array, "b l"],
    vectors: Float[Array, "b l d"],
) -> Float[Array, "b l d"]:
    encoder = nnx.merge(graphdef, nnx.State(params))
    embeddings = encoder.embed(ids)
    return encoder.encode(jnp.where(mask[..., None], vectors.astype(embeddings.dtype), embeddings))


def splice(
    token_embeddings: Float[Array, "b l d"],
    vector_index: Int[Array, "b l"],
    rows: Float[Array, "b v d"],
) -> Float[Array, "b l d"]:
    """Puts vector v of each example's row where `vector_index` is v; -1 keeps the token embedding.

    Differentiable in `rows`; the result has the token embeddings' dtype.
    """
    picked = jnp.take_along_axis(rows, jnp.maximum(vector_index, 0)[..., None], axis=1)
    return jnp.where(
        vector_index[..., None] >= 0, picked.astype(token_embeddings.dtype), token_embeddings
    )


def initializer_row(word: str, tokenizer: CLIPTokenizer, text_encoder: Frozen) -> Float[Array, "d"]:
    """The token embedding of a one-token word, float32: where training starts.

    Raises UserError if the word is not exactly one token.
    """
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
    return _embed(text_encoder.graphdef, text_encoder.params, np.asarray([ids], np.int32))


@functools.partial(jax.jit, static_argnums=0)
def _embed(graphdef: nnx.GraphDef, params: Any, ids: Int[Array, "1 1"]) -> Float[Array, "d"]:
    return nnx.merge(graphdef, nnx.State(params)).embed(ids)[0, 0].astype(jnp.float32)


def _check_width(concept: Concept, width: int) -> None:
    if concept.width != width:
        model = concept.metadata.get("base_model", "unknown")
        raise UserError(
            f"concept '{concept.name}' was trained for a text encoder of width {concept.width} "
            f"(base model {model}), this one has {width}"
        )


def _check_timesteps(concept: Concept, num_train_timesteps: int) -> None:
    if concept.num_train_timesteps != num_train_timesteps:
        raise UserError(
            f"concept '{concept.name}' was trained with {concept.num_train_timesteps} diffusion "
            f"timesteps, this model's schedule has {num_train_timesteps}"
        )
