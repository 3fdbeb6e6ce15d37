# SPDX-License-Identifier: Apache-2.0
"""Prompts -> text states for every interval of diffusion time, without duplicates."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Int32
from transformers import CLIPTokenizer

from mrti_jax.concept.buckets import equal_boundaries
from mrti_jax.concept.schemes import read_prompt
from mrti_jax.concept.table import Concept, Parts
from mrti_jax.concept.tokens import Nothing, Tokens, tokenize
from mrti_jax.errors import UserError, check_word, shorten, warn
from mrti_jax.models.frozen import Frozen
from mrti_jax.models.text_encoder import TextEncoder, TextStates
from mrti_jax.parallel.mesh import fetch

# Sequences per call of the text encoder: one shape for all prompts, so one compilation.
ENCODE_BATCH = 8
# The minimum number of intervals: one shape for all usual tables, so one compilation.
NUM_INTERVALS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Text states of prompts in every interval of diffusion time, on the host.

    `distinct`: each state once, [D, l, d] and [D, p]; `index`: which one a prompt has in an
    interval.
    """

    distinct: TextStates
    index: Int32[np.ndarray, "intervals b"]

    def of(self, prompts: Int[np.ndarray, "*n"]) -> TextStates:
        """The states of the prompts with these indices, in each interval: [intervals, *n, l, d] and
        [intervals, *n, p]."""
        index = self.index[:, prompts]
        return jax.tree.map(lambda values: values[index], self.distinct)

    def with_zeros(self) -> "EncodedPrompts":
        """The same with one more prompt at the end, whose states are all zeros."""
        distinct = jax.tree.map(lambda x: np.append(x, np.zeros_like(x[:1]), axis=0), self.distinct)
        zeros = np.full_like(self.index[:, :1], len(self.distinct.hidden))
        return EncodedPrompts(distinct, np.append(self.index, zeros, axis=1))


def interval_boundaries(
    concepts: Iterable[Concept], num_train_timesteps: int
) -> Int32[np.ndarray, "edges"]:
    """Edges of the intervals, from 0 to T, including every boundary of every concept.

    Tables of 1, 2, 5 or 10 equal buckets, and no table at all, give the same NUM_INTERVALS
    intervals, so programs compiled for one serve the others. Pass all loaded concepts, not only
    those of one prompt. Raises UserError for a concept with a different number of training
    timesteps.
    """
    edges = {0, num_train_timesteps}
    for concept in concepts:
        _check_timesteps(concept, num_train_timesteps)
        edges |= set(concept.boundaries.tolist())
    num_intervals = min(NUM_INTERVALS, num_train_timesteps)
    equal = equal_boundaries(num_intervals, num_train_timesteps)
    if edges <= set(equal.tolist()):
        return equal
    ordered = sorted(edges)
    while len(ordered) <= num_intervals:
        widest = int(np.argmax(np.diff(ordered)))
        ordered.insert(widest + 1, (ordered[widest] + ordered[widest + 1]) // 2)
    return np.asarray(ordered, np.int32)


def encode_prompts(
    texts: Sequence[str],
    concepts: Mapping[str, Concept],
    tokenizers: Sequence[CLIPTokenizer],
    text_encoder: Frozen[TextEncoder],
    boundaries: Int32[np.ndarray, "edges"],
    *,
    nothing: Nothing = "zero",
    official_semi: bool = False,
) -> EncodedPrompts:
    """Text states of every prompt in every interval, in the text encoder's dtype.

    `boundaries`: from `interval_boundaries`. The text encoder runs once per distinct prompt and
    rows. Warns once of each prompt that is too long. Raises UserError for malformed prompts,
    unknown words, buckets that a table lacks, and concepts for another text encoder or schedule.
    """
    if not texts:
        raise UserError("there is no prompt to encode")
    check_word("nothing", nothing, get_args(Nothing))
    config = text_encoder.config
    for concept in concepts.values():
        _check_parts(concept, config.parts)
        _check_timesteps(concept, int(boundaries[-1]))

    distinct: dict[bytes, int] = {}
    sequences: list[tuple[Tokens, ...]] = []
    index = np.zeros((len(boundaries) - 1, len(texts)), np.int32)
    cuts: dict[str, str] = {}
    for column, text in enumerate(texts):
        prompt = read_prompt(text, concepts)
        versions: list[Tokens] = []
        for interval, timestep in enumerate(boundaries[:-1].tolist()):
            tokens = tuple(
                tokenize(
                    prompt,
                    timestep,
                    concepts,
                    tokenizer,
                    columns=columns,
                    nothing=nothing,
                    official_semi=official_semi,
                )
                for tokenizer, columns in zip(tokenizers, config.columns, strict=True)
            )
            versions += tokens
            key = b"".join(one.key for one in tokens)
            index[interval, column] = distinct.setdefault(key, len(sequences))
            if index[interval, column] == len(sequences):
                sequences.append(tokens)
        longest = max(versions, key=lambda one: one.num_cut)
        if longest.num_cut:
            cuts[text] = longest.cut
    for text, cut in cuts.items():
        warn(
            f"the prompt {shorten(text, 80)!r} is longer than {tokenizers[0].model_max_length} "
            f"tokens, cut off: {cut}"
        )
    # On the host, so that a different number of sequences compiles nothing.
    return EncodedPrompts(_encode_all(sequences, text_encoder), index)


def _encode_all(
    sequences: Sequence[tuple[Tokens, ...]], text_encoder: Frozen[TextEncoder]
) -> TextStates:
    """Text states of S sequences, [S, L, D] and [S, P], in batches of ENCODE_BATCH."""
    batches = []
    for start in range(0, len(sequences), ENCODE_BATCH):
        batch = list(sequences[start : start + ENCODE_BATCH])
        batch += batch[-1:] * (ENCODE_BATCH - len(batch))
        states = _encode_batch(
            text_encoder.graphdef,
            text_encoder.params,
            np.stack([[one.ids for one in tokens] for tokens in batch]),
            np.stack([[one.mask for one in tokens] for tokens in batch]),
            tuple(np.stack(vectors) for vectors in zip(*map(_vectors, batch), strict=True)),
            np.asarray([[one.end for one in tokens] for tokens in batch], np.int32),
        )
        batches.append(jax.tree.map(fetch, states))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(sequences)], *batches)


def _vectors(tokens: tuple[Tokens, ...]) -> list[np.ndarray]:
    return [one.vectors for one in tokens]


@functools.partial(jax.jit, static_argnums=0)
def _encode_batch(
    graphdef: nnx.GraphDef,
    params: Any,
    ids: Int[Array, "b e l"],
    mask: Bool[Array, "b e l"],
    vectors: tuple[Float[Array, "b l _"], ...],
    end: Int[Array, "b e"],
) -> TextStates:
    encoder = nnx.merge(graphdef, nnx.State(params))
    embeddings = [
        jnp.where(mask[:, i, :, None], vectors[i].astype(embedded.dtype), embedded)
        for i, embedded in enumerate(encoder.embed(ids))
    ]
    return encoder.encode(embeddings, end)


def splice(
    token_embeddings: Sequence[Float[Array, "b l _"]],
    vector_index: Int[Array, "b e l"],
    rows: Float[Array, "b v d"],
) -> list[Float[Array, "b l _"]]:
    """Puts vector v of each example's row where `vector_index` is v; -1 keeps the token embedding.

    Each text model's embeddings get their own columns of the rows. Differentiable in `rows`; the
    results have the token embeddings' dtypes.
    """
    spliced, start = [], 0
    for i, embedded in enumerate(token_embeddings):
        end = start + embedded.shape[-1]
        index = vector_index[:, i, :, None]
        picked = jnp.take_along_axis(rows[..., start:end], jnp.maximum(index, 0), axis=1)
        spliced.append(jnp.where(index >= 0, picked.astype(embedded.dtype), embedded))
        start = end
    return spliced


def _check_parts(concept: Concept, parts: Parts) -> None:
    if concept.parts != parts:
        model = concept.metadata.get("base_model", "the one it was trained with")
        raise UserError(
            f"concept '{concept.name}' was trained for a text encoder of width "
            f"{_widths(concept.parts)}, but this model has {_widths(parts)}: use its base model, "
            f"{model}, or one with the same text encoder"
        )


def _widths(parts: Parts) -> str:
    return " + ".join(f"{width} ({name})" if name else str(width) for name, width in parts)


def _check_timesteps(concept: Concept, num_train_timesteps: int) -> None:
    if concept.num_train_timesteps != num_train_timesteps:
        raise UserError(
            f"concept '{concept.name}' was trained with {concept.num_train_timesteps} diffusion "
            f"timesteps, but this model's schedule has {num_train_timesteps}"
        )
