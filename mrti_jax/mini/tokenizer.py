# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded model's tokenizer: byte-level BPE in CLIP's format, on its captions."""

import json
import re
from functools import cache

import numpy as np
import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mrti_jax.mini.words import EVERYDAY_WORDS, TEMPLATE_WORDS
from mrti_jax.mini.world import THINGS, caption, random_scene
from mrti_jax.mini.world.palette import COLOURS
from mrti_jax.mini.world.shapes import SHAPES

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_LENGTH = 77
_NUM_CAPTIONS = 6_000
# How CLIP cuts text into words (Radford et al., 2021, the released tokenizer).
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@cache
def world_captions() -> tuple[str, ...]:
    """Captions of a few thousand scenes, always the same ones."""
    rng = np.random.default_rng(0)
    return tuple(caption(random_scene(rng), rng, mention=0.8) for _ in range(_NUM_CAPTIONS))


def known_words() -> list[str]:
    """The words that get one token each: the world's, the templates' and everyday ones."""
    world = {word for text in world_captions() for word in re.findall("[a-z]+", text)}
    plurals = {shape + "s" for shape in SHAPES if shape != "cross"}
    named = set(COLOURS) | set(THINGS) | set(SHAPES) | plurals
    return sorted(world | named | set(TEMPLATE_WORDS.split()) | set(EVERYDAY_WORDS.split()))


def train() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary (token to id) and the merges in order; deterministic.

    Ids are ordered as in CLIP: the 256 byte symbols, the same ending a word, merges, start, end.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.BPEDecoder(SUFFIX)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = [*letters, *(letter + SUFFIX for letter in letters)]
    # With no other words in the corpus, training ends when every word is one token. Naming the
    # byte symbols first fixes their ids, which break ties between equally frequent pairs.
    trainer = trainers.BpeTrainer(
        vocab_size=50_000,
        min_frequency=1,
        end_of_word_suffix=SUFFIX,
        special_tokens=bytes_,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*world_captions(), *known_words()], trainer)
    merges = [(a, b) for a, b in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = [*bytes_, *map("".join, merges), START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def write(folder: epath.PathLike) -> None:
    """Trains and writes the tokenizer's four files, for `CLIPTokenizer.from_pretrained`."""
    path = epath.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = train()
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = special | {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (path / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0) + "\n")
    (path / "merges.txt").write_text("\n".join(lines) + "\n")
    (path / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
