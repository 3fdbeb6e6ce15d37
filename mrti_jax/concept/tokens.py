# SPDX-License-Identifier: Apache-2.0
"""Prompt -> token ids, and the concept vectors that take the place of token embeddings.

Text between the words is tokenized piece by piece, as if each word were one special token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32
from transformers import CLIPTokenizer

from mrti_jax.concept.buckets import bucket_from_boundaries
from mrti_jax.concept.prompt import Prompt, Word
from mrti_jax.concept.schemes import rows
from mrti_jax.concept.table import Concept
from mrti_jax.errors import UserError, shorten, warn

Nothing = Literal["zero", "drop", "initializer"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Token positions of a sequence of texts and placeholders, BOS, EOS and padding included.

    `part` and `vector` [L]: the placeholder (index of its part) and which of its positions; -1 for
    ordinary tokens. `end`: position of the first EOS. `num_cut`: tokens that did not fit; the first
    was in part `cut_part`, at character `cut_offset` if that is text, else at that position of the
    placeholder.
    """

    ids: Int32[np.ndarray, "l"]
    part: Int32[np.ndarray, "l"]
    vector: Int32[np.ndarray, "l"]
    end: int
    num_cut: int
    cut_part: int
    cut_offset: int


@dataclass(frozen=True, eq=False)
class Tokens:
    """One prompt in one interval of diffusion time, for one text model.

    Where `mask` [L] is true the token embedding is the row of `vectors` [L, D], elsewhere it is the
    text model's own of `ids` [L]. `end`: position of the end-of-text token. `num_cut`: tokens that
    did not fit; `cut`: what they were.
    """

    ids: Int32[np.ndarray, "l"]
    mask: Bool[np.ndarray, "l"]
    vectors: Float32[np.ndarray, "l d"]
    end: int
    num_cut: int
    cut: str

    @property
    def key(self) -> bytes:
        """Equal for tokens with the same text states."""
        return self.ids.tobytes() + self.mask.tobytes() + self.vectors[self.mask].tobytes()


class _Token(NamedTuple):
    """A token, and the part and offset that it comes from; BOS, EOS and padding come from none."""

    id: int
    part: int = -1
    offset: int = 0
    is_vector: bool = False


def lay_out(parts: Sequence[str | int], tokenizer: CLIPTokenizer) -> Layout:
    """Tokens of texts, and of placeholders given as numbers of positions, cut and padded to the
    tokenizer's `model_max_length`; BOS and EOS are always kept."""
    length = tokenizer.model_max_length
    eos = tokenizer.eos_token_id
    tokens = [_Token(tokenizer.bos_token_id)]
    for index, item in enumerate(parts):
        if isinstance(item, int):
            tokens += [_Token(eos, index, position, True) for position in range(item)]
            continue
        pieces = tokenizer(
            item, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        tokens += [
            _Token(token, index, start)
            for token, (start, _) in zip(pieces["input_ids"], pieces["offset_mapping"], strict=True)
        ]
    kept, cut = tokens[: length - 1], tokens[length - 1 :]
    pad = eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    kept += [_Token(eos)] + [_Token(pad)] * (length - 1 - len(kept))
    ids = np.asarray([token.id for token in kept], np.int32)
    part = np.asarray([token.part if token.is_vector else -1 for token in kept], np.int32)
    vector = np.asarray([token.offset if token.is_vector else -1 for token in kept], np.int32)
    end = int(np.argmax((ids == eos) & (part < 0)))  # a text may spell EOS, too
    _, cut_part, cut_offset, _ = cut[0] if cut else _Token(eos)
    return Layout(ids, part, vector, end, len(cut), cut_part, cut_offset)


def tokenize(
    prompt: Prompt,
    timestep: int,
    concepts: Mapping[str, Concept],
    tokenizer: CLIPTokenizer,
    *,
    columns: slice,
    nothing: Nothing = "zero",
    official_semi: bool = False,
) -> Tokens:
    """The prompt at a diffusion timestep; its words must be known (`read_prompt`).

    A word of V vectors takes V positions. `columns`: the text model's columns of a table.
    `nothing`: what replaces a word that has no row at this time: "zero" vectors in its positions,
    no word ("drop"), or its "initializer" word.
    """
    parts: list[str | int] = []
    tables: dict[int, np.ndarray] = {}
    for index, part in enumerate(prompt.parts):
        if isinstance(part, str):
            parts.append(part)
            continue
        concept = concepts[part.name]
        at = int(bucket_from_boundaries(timestep, concept.boundaries))
        row = rows(part, concept.num_buckets, official_semi)[at]
        if row is not None:
            tables[index] = concept.embeddings[row][:, columns]
            parts.append(concept.num_vectors)
        elif nothing == "zero":
            parts.append(concept.num_vectors)
        elif nothing == "drop":
            parts.append(0)
        else:
            parts.append(_initializer(concept))
    layout = lay_out(parts, tokenizer)
    mask = layout.part >= 0
    vectors = np.zeros((len(mask), columns.stop - columns.start), np.float32)
    for position in np.flatnonzero(mask):
        table = tables.get(int(layout.part[position]))
        if table is not None:
            vectors[position] = table[layout.vector[position]]
    return Tokens(
        layout.ids,
        mask,
        vectors,
        layout.end,
        layout.num_cut,
        _describe_cut(prompt, parts, layout),
    )


def placeholder_ids(
    template: str, num_vectors: int, tokenizer: CLIPTokenizer
) -> tuple[Int32[np.ndarray, "l"], Int32[np.ndarray, "l"], int]:
    """Token ids [L] of a caption in which `{}` stands for the concept, vector indices [L], and the
    position of the end-of-text token.

    The index is v where vector v of the concept goes, -1 at ordinary tokens (see `splice`).
    Warns of text that did not fit. Raises UserError if the caption has no `{}` or it doesn't fit.
    """
    texts = template.split("{}")
    if len(texts) == 1:
        raise UserError(f"the caption {template!r} has no {{}} where the concept's word goes")
    parts: list[str | int] = [texts[0]]
    for text in texts[1:]:
        parts += [num_vectors, text]
    layout = lay_out(parts, tokenizer)
    if layout.num_cut:
        if isinstance(parts[layout.cut_part], int) or layout.cut_part < len(parts) - 1:
            raise UserError(
                f"the caption {shorten(template)!r} is longer than {tokenizer.model_max_length} "
                "tokens and its {} does not fit: shorten it, or use fewer vectors"
            )
        cut = texts[-1][layout.cut_offset :]
        warn(
            f"a caption is longer than {tokenizer.model_max_length} tokens, "
            f"cut off: {shorten(cut)!r}"
        )
    return layout.ids, layout.vector, layout.end


def _initializer(concept: Concept) -> str:
    initializer = concept.metadata.get("initializer")
    if not initializer:
        raise UserError(
            f"concept '{concept.name}' does not say what word it was initialised from: "
            "set nothing to 'zero' or 'drop'"
        )
    return initializer


def _describe_cut(prompt: Prompt, parts: Sequence[str | int], layout: Layout) -> str:
    """What part of the prompt did not fit, and which concept words that affects; "" if all fits."""
    if not layout.num_cut:
        return ""
    first = prompt.parts[layout.cut_part]
    rest = prompt.parts[layout.cut_part + 1 :]
    head = first[layout.cut_offset :] if isinstance(first, str) else str(first)
    told = repr(shorten(head + "".join(map(str, rest))))
    lost = [str(part) for part in rest if isinstance(part, Word)]
    if isinstance(first, Word):
        if isinstance(parts[layout.cut_part], int) and layout.cut_offset > 0:
            kept = f"{layout.cut_offset} of the {parts[layout.cut_part]} vectors of {first}"
            told += f" (only {kept} fit)"
        else:
            lost.insert(0, str(first))
    if lost:
        told += f" (without effect: {', '.join(lost)})"
    return told
