# SPDX-License-Identifier: Apache-2.0
"""What is read from a model's files beside its weights."""

import json
import shutil
from pathlib import Path

from mrti_jax.models.stable_diffusion import scheduler_config, zeros_for_empty_prompt
from mrti_jax.models.stored.find import open_model
from mrti_jax.models.stored.model import ModelSource


def test_an_outdated_scheduler_config_is_brought_up_to_date(
    tiny_folder: Path, tiny_xl_folder: Path, tmp_path: Path
) -> None:
    for source, offset in ((tiny_folder, 1), (tiny_xl_folder, 0)):
        copy = Path(shutil.copytree(source, tmp_path / source.name))
        path = copy / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps_offset": 0}))
        config = scheduler_config(open_model(ModelSource(path=str(copy))))
        assert config["steps_offset"] == offset


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
