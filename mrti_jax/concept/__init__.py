# SPDX-License-Identifier: Apache-2.0
"""What is learned and how prompts refer to it.

The table and its file, the prompt grammar, and prompts as text states per bucket of diffusion time.
"""

from mrti_jax.concept.buckets import (
    bucket,
    bucket_from_boundaries,
    equal_boundaries,
    resolution_to_bucket,
)
from mrti_jax.concept.encode import (
    NUM_INTERVALS,
    EncodedPrompts,
    encode_prompts,
    interval_boundaries,
    splice,
)
from mrti_jax.concept.initial import initial_vectors
from mrti_jax.concept.prompt import BRACKETS, MARK, Prompt, Scheme, Word, parse
from mrti_jax.concept.schemes import read_prompt, rows
from mrti_jax.concept.table import Concept, by_name
from mrti_jax.concept.templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
from mrti_jax.concept.tokens import Nothing, placeholder_ids, tokenize

__all__ = [
    "BRACKETS",
    "MARK",
    "NUM_INTERVALS",
    "OBJECT_TEMPLATES",
    "STYLE_TEMPLATES",
    "Concept",
    "EncodedPrompts",
    "Nothing",
    "Prompt",
    "Scheme",
    "Word",
    "bucket",
    "bucket_from_boundaries",
    "by_name",
    "encode_prompts",
    "equal_boundaries",
    "initial_vectors",
    "interval_boundaries",
    "parse",
    "placeholder_ids",
    "read_prompt",
    "resolution_to_bucket",
    "rows",
    "splice",
    "tokenize",
]
