# SPDX-License-Identifier: Apache-2.0
"""What is read from a model's files besides its weights."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from mrti_jax.errors import UserError
from mrti_jax.models.source import ModelSource
from mrti_jax.models.stable_diffusion import (
    StableDiffusion,
    scheduler_config,
    zeros_for_empty_prompt,
)
from mrti_jax.models.stored.find import open_model


@pytest.mark.parametrize("dtype", ["float16", np.float64, "int8", "half"])
def test_other_dtypes_are_refused(tiny_folder: Path, dtype: jax.typing.DTypeLike) -> None:
    with pytest.raises(UserError, match=r"dtype is '.*', but must be one of bfloat16, float32"):
        StableDiffusion.load(tiny_folder, dtype=dtype)


def test_an_outdated_scheduler_config_is_brought_up_to_date(
    tiny_folder: Path, tiny_xl_folder: Path, tmp_path: Path
) -> None:
    outdated = {"steps_offset": 0, "clip_sample": True}
    for source, expected in (
        (tiny_folder, {"steps_offset": 1, "clip_sample": False}),
        (tiny_xl_folder, outdated),
    ):
        copy = Path(shutil.copytree(source, tmp_path / source.name))
        path = copy / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | outdated))
        config = scheduler_config(open_model(ModelSource(path=str(copy))))
        assert {key: config[key] for key in outdated} == expected


def test_guidance_away_from_zeros_is_for_xl(
    tiny_folder: Path, tiny_xl_folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_xl_folder, tmp_path / "xl"))
    index = json.loads((copy / "model_index.json").read_text())
    for told, expected in ((True, True), (False, False), (None, True)):
        values = index | {"force_zeros_for_empty_prompt": told}
        if told is None:
            del values["force_zeros_for_empty_prompt"]
        (copy / "model_index.json").write_text(json.dumps(values))
        assert zeros_for_empty_prompt(open_model(ModelSource(path=str(copy)))) is expected
    assert not zeros_for_empty_prompt(open_model(ModelSource(path=str(tiny_folder))))
