# SPDX-License-Identifier: Apache-2.0
"""The captions of the photos as token ids, with the places where the concept's vectors go."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32
from transformers import CLIPTokenizer

from mrti_jax.concept import OBJECT_TEMPLATES, STYLE_TEMPLATES, placeholder_ids
from mrti_jax.training.images import Photo

TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}


class Prompts(NamedTuple):
    """K captions of L tokens for each of E text models; photo m has `num[m]` of them, from
    `first[m]` on (see `Data`)."""

    ids: Int32[np.ndarray, "k e l"]
    vector_index: Int32[np.ndarray, "k e l"]
    end: Int32[np.ndarray, "k e"]
    first: Int32[np.ndarray, "m"]
    num: Int32[np.ndarray, "m"]


def tokenize_captions(
    photos: Sequence[Photo],
    learnable_property: Literal["object", "style"],
    num_vectors: int,
    tokenizers: Sequence[CLIPTokenizer],
) -> Prompts:
    """Each photo's own captions, or all the templates for a photo without any.

    Raises UserError for a caption in which the word does not fit.
    """
    texts: list[str] = []
    places: dict[tuple[str, ...], int] = {}  # crops of one photo share its captions
    own = [photo.captions or tuple(TEMPLATES[learnable_property]) for photo in photos]
    for lines in own:
        if lines not in places:
            places[lines] = len(texts)
            texts += lines
    tokens = [
        [placeholder_ids(text, num_vectors, tokenizer) for tokenizer in tokenizers]
        for text in texts
    ]
    return Prompts(
        ids=np.stack([[ids for ids, _, _ in each] for each in tokens]),
        vector_index=np.stack([[index for _, index, _ in each] for each in tokens]),
        end=np.asarray([[end for _, _, end in each] for each in tokens], np.int32),
        first=np.asarray([places[lines] for lines in own], np.int32),
        num=np.asarray([len(lines) for lines in own], np.int32),
    )
