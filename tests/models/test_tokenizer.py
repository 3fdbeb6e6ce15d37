# SPDX-License-Identifier: Apache-2.0
"""Reading tokenizers, from wherever they are, and only for the text encoder that they belong to."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bucket import buckets
from etils import epath
from tiny import pads_with, text_config

from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.stored.find import mini_folder
from mrti_jax.models.tokenizer import load_tokenizer

MINI = mini_folder() / "tokenizer"
TEXT = "a red circle!! and more!"


def test_another_padding_token_is_as_in_a_folder_that_has_it(tmp_path: Path) -> None:
    folder = load_tokenizer(epath.Path(pads_with("!", Path(MINI), tmp_path / "other")))
    given = load_tokenizer(MINI, "!")
    ids = [one(TEXT, padding="max_length")["input_ids"] for one in (folder, given)]
    assert ids[0] == ids[1] != load_tokenizer(MINI)(TEXT, padding="max_length")["input_ids"]


def test_more_tokens_than_the_text_encoder_has(tiny_folder: Path, tmp_path: Path) -> None:
    config = text_config("sd1", len(load_tokenizer(MINI)))
    load_tokenizer(MINI, text=config)
    with pytest.raises(UserError, match=r"has 1359 tokens, the text encoder has 600"):
        load_tokenizer(MINI, text=dataclasses.replace(config, vocab_size=600))
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    added = {f"<extra{i}>": len(load_tokenizer(MINI)) + i for i in range(3)}
    (copy / "tokenizer" / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(UserError, match="has 1362 tokens, the text encoder has 1359"):
        StableDiffusion.load(copy)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ({"tokenizer": 100}, "allows prompts of 100 tokens, the text encoder of 77"),
        ({"tokenizer": 60}, r"same length, not \[60, 77\] tokens"),
        ({"tokenizer": 1}, "has model_max_length = 1, but must allow for the tokens"),
        ({"tokenizer": "77"}, "has model_max_length = '77', but must allow for the tokens"),
    ],
    ids=["longer-than-the-text-encoder", "of-two-lengths", "too-short", "of-text"],
)
def test_lengths_that_do_not_fit(
    tiny_xl_folder: Path, tmp_path: Path, lengths: dict[str, Any], said: str
) -> None:
    copy = Path(shutil.copytree(tiny_xl_folder, tmp_path / "model"))
    for name, length in lengths.items():
        file = copy / name / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": length}))
    with pytest.raises(UserError, match=said):
        StableDiffusion.load(copy)


def test_a_length_that_is_not_told_is_the_text_encoders(tmp_path: Path) -> None:
    load_tokenizer(MINI).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = text_config("sd1", 1359)
    assert load_tokenizer(epath.Path(tmp_path), text=config).model_max_length == 77


def test_a_model_in_an_object_store(
    tiny_folder: Path, tiny_sd: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    with buckets(monkeypatch):
        target = epath.Path("gs://b/sd1")
        for file in (path for path in tiny_folder.rglob("*") if path.is_file()):
            (target / file.relative_to(tiny_folder)).write_bytes(file.read_bytes())
        sd = StableDiffusion.load("gs://b/sd1", mesh=tiny_sd.mesh)
    assert sd.tokenizers[0](TEXT)["input_ids"] == tiny_sd.tokenizers[0](TEXT)["input_ids"]
    np.testing.assert_array_equal(
        sd.unet.params["conv_in"]["kernel"], tiny_sd.unet.params["conv_in"]["kernel"]
    )
