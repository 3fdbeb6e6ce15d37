# SPDX-License-Identifier: Apache-2.0
"""A folder that is written has the tokenizers it was given."""

import json
from pathlib import Path

from etils import epath

from mrti_jax.models.export import save_pipeline
from mrti_jax.models.stable_diffusion import StableDiffusion, load_tokenizer
from mrti_jax.models.stored.find import mini_folder


def test_tokenizer_as_transformers_saves_it(tiny_sd: StableDiffusion, tmp_path: Path) -> None:
    """Under transformers 5: one file for words and merges, which an older one adds words to."""
    source = tmp_path / "source"
    tokenizer = load_tokenizer(mini_folder() / "tokenizer")
    tokenizer.add_tokens(["<cat>"])
    tokenizer.save_pretrained(str(source))
    (source / "added_tokens.json").write_text(json.dumps({"<cat>": len(tokenizer) - 1}))
    assert not (source / "vocab.json").exists()
    folder = epath.Path(tmp_path / "written")
    save_pipeline(
        folder,
        [source],
        tiny_sd.text_models,
        tiny_sd.unet,
        tiny_sd.vae,
        {"_class_name": "DDIMScheduler"},
    )
    assert {path.name for path in (folder / "tokenizer").iterdir()} == {
        path.name for path in source.iterdir()
    }
    written = load_tokenizer(folder / "tokenizer")
    text = "a photo of <cat>"
    assert written(text).input_ids == tokenizer(text).input_ids
