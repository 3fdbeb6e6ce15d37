# SPDX-License-Identifier: Apache-2.0
"""Names that older releases of diffusers and transformers gave to tensors -> today's."""

import re

from mrti_jax.models.stored.tensor import StoredTensor, Tensors

# Not weights: constants that older releases saved as well.
_BUFFERS = re.compile(r"(?:.*\.)?position_ids")
# diffusers before 0.15, in the autoencoder.
_ATTENTION = re.compile(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_ATTENTION_NOW = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Of the whole CLIP that a text encoder comes from, and of training: some tools save them as well.
_LEFTOVERS = {
    "text_encoder": r"text_projection\.weight|logit_scale|(vision_model|visual_projection)\..*",
    "text_encoder_2": r"logit_scale|(vision_model|visual_projection)\..*",
    "vae": r"model_ema\..*",
}


def leftovers(part: str, tensors: Tensors) -> set[str]:
    """The names of the tensors in a model's part that it does not use."""
    pattern = _LEFTOVERS.get(part)
    return {name for name in tensors if pattern and re.fullmatch(pattern, name)}


def current_names(tensors: Tensors) -> dict[str, StoredTensor]:
    """The same tensors under the names of our modules, without buffers."""
    return {_current(name): t for name, t in tensors.items() if not _BUFFERS.fullmatch(name)}


def _current(name: str) -> str:
    match = _ATTENTION.fullmatch(name)
    if match:
        return f"{match[1]}.{_ATTENTION_NOW[match[2]]}.{match[3]}"
    # Text encoders, before transformers 5.
    return name.removeprefix("text_model.")
