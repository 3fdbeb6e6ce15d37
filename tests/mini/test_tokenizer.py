# SPDX-License-Identifier: Apache-2.0
"""The miniature's tokenizer: one token a word, in CLIP's format, the same in every run."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

import mrti_jax
from mrti_jax.mini import tokenizer as trained
from mrti_jax.mini.world import caption, random_scene

FOLDER = Path(mrti_jax.__file__).parent / "assets" / "mini" / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(str(FOLDER))


def test_every_known_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    split = [w for w in trained.known_words() if len(tokenizer(w).input_ids) != 3]
    assert split == []


def test_captions_come_back_from_their_ids(tokenizer: CLIPTokenizer) -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        text = caption(random_scene(rng), rng)
        ids = tokenizer(text).input_ids
        assert len(ids) <= 40
        back = tokenizer.decode(ids, skip_special_tokens=True)
        assert back.split() == text.replace(",", " ,").replace("-", " - ").split()


def test_any_text_comes_back_from_its_bytes(tokenizer: CLIPTokenizer) -> None:
    text = "ünïcode 日本 😀 <qux>"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_special_tokens_and_padding_are_those_of_clip(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a star", padding="max_length").input_ids
    assert len(ids) == tokenizer.model_max_length == 77
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|startoftext|>")
    assert set(ids[3:]) == {tokenizer.convert_tokens_to_ids("<|endoftext|>")}
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_files_in_the_package_are_what_training_gives(tmp_path: Path) -> None:
    trained.write(tmp_path)
    for name in ("vocab.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((FOLDER / name).read_text())
    assert (tmp_path / "merges.txt").read_text() == (FOLDER / "merges.txt").read_text()
