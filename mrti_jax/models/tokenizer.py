# SPDX-License-Identifier: Apache-2.0
"""Reads a stored tokenizer, and checks that it belongs to its text encoder."""

import tempfile
from pathlib import Path
from typing import Any

from etils import epath
from transformers import CLIPTokenizer

from mrti_jax.errors import UserError, shown
from mrti_jax.files import in_object_store, reason
from mrti_jax.models.clip import CLIPTextConfig
from mrti_jax.models.stored.folder import TOKENIZER_FILES

# If a tokenizer doesn't say how long its prompts may be, transformers gives more than this.
_UNTOLD = 10**9


def load_tokenizer(
    folder: epath.Path, pad_token: str | None = None, text: CLIPTextConfig | None = None
) -> CLIPTokenizer:
    """The tokenizer of a diffusers folder; never uses the network.

    Args:
        pad_token: replaces the folder's own, if given.
        text: the text encoder's config; if given, the tokenizer must belong to it.

    Raises:
        UserError: one of its files is missing or damaged; it has more tokens, or allows longer
            prompts, than the text encoder.
    """
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).exists()]
    if missing and not (folder / "tokenizer.json").exists():
        raise UserError(f"{folder} holds no tokenizer: {' and '.join(missing)} missing")
    # Set later, it would not become a special token, which is split off whatever is next to it.
    options: dict[str, Any] = {} if pad_token is None else {"pad_token": pad_token}
    try:
        with tempfile.TemporaryDirectory() as copy:
            here = _copied(folder, Path(copy)) if in_object_store(folder) else folder
            tokenizer = CLIPTokenizer.from_pretrained(str(here), local_files_only=True, **options)
    except Exception as error:  # damaged files raise anything
        raise UserError(f"the tokenizer in {folder} can't be read: {reason(error)}") from None
    if text is not None:
        if len(tokenizer) > text.vocab_size:
            raise UserError(
                f"the tokenizer in {folder} has {len(tokenizer)} tokens, the text encoder has "
                f"{text.vocab_size}: they don't belong together"
            )
        length, most = tokenizer.model_max_length, text.max_position_embeddings
        if type(length) is not int or length < 2:
            raise UserError(
                f"the tokenizer in {folder} has model_max_length = {shown(length)}, but must allow "
                "for the tokens at the start and the end of a prompt"
            )
        if _UNTOLD >= length > most:
            raise UserError(
                f"the tokenizer in {folder} allows prompts of {length} tokens, the text encoder of "
                f"{most}: they don't belong together"
            )
        tokenizer.model_max_length = min(length, most)
    return tokenizer


def _copied(folder: epath.Path, copy: Path) -> Path:
    """The folder on this machine, where transformers can read it."""
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            (copy / name).write_bytes((folder / name).read_bytes())
    return copy
