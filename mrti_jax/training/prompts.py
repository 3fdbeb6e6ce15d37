# SPDX-License-Identifier: Apache-2.0
"""The captions of the photos as token ids, with the places where the concept's vectors go."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32
from transformers import CLIPTokenizer

from mrti_jax.concept import OBJECT_TEMPLATES, STYLE_TEMPLATES, placeholder_ids
from mrti_jax.errors import UserError, warn
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
    *,
    captions: bool,
) -> Prompts:
    """Each photo's own captions, or else all the templates.

    Raises UserError for a caption in which the word does not fit, and if `captions` are asked for
    and there are none.
    """
    own = [photo.captions if captions else () for photo in photos]
    # Several photos may be crops of one.
    without = [photo.name for photo, texts in zip(photos, own, strict=True) if not texts]
    missing = list(dict.fromkeys(without))
    if captions and len(without) == len(photos):
        raise UserError(
            "--data.captions: no image has a caption; write `photo.txt` next to `photo.png`"
        )
    if captions and missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        warn(f"{len(missing)} images have no caption and are trained with templates: {shown}")

    texts = list(TEMPLATES[learnable_property]) if missing else []
    num_templates = len(texts)
    first, num = [], []
    for lines in own:
        first.append(len(texts) if lines else 0)
        num.append(len(lines) or num_templates)
        texts += lines
    tokens = [
        [placeholder_ids(text, num_vectors, tokenizer) for tokenizer in tokenizers]
        for text in texts
    ]
    return Prompts(
        ids=np.stack([[ids for ids, _, _ in each] for each in tokens]),
        vector_index=np.stack([[index for _, index, _ in each] for each in tokens]),
        end=np.asarray([[end for _, _, end in each] for each in tokens], np.int32),
        first=np.asarray(first, np.int32),
        num=np.asarray(num, np.int32),
    )
