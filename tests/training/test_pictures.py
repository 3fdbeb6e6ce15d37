# SPDX-License-Identifier: Apache-2.0
"""The sheets of a training: each picture is what its labels say."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image
from tiny import PICTURE_SIZE, tiny_concept

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling import generate
from mrti_jax.training.pictures import draw_final, draw_progress

JANE = tiny_concept(num_buckets=4)
STEPS, GUIDANCE, INTERVAL = 8, 2.0, (0.2, 0.9)


@pytest.fixture
def sheet(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the sheet was made of."""
    made: dict[str, Any] = {}

    def record(cells: Any, rows: Any, columns: Any, title: str, rows_above: int = 0) -> Image.Image:
        made.update(cells=cells, rows=rows, columns=columns, rows_above=rows_above)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("mrti_jax.training.pictures.make_grid", record)
    return made


@pytest.fixture
def config(make_config: Callable) -> Any:
    return make_config(
        train={
            "picture_steps": STEPS,
            "picture_guidance": GUIDANCE,
            "picture_guidance_interval": INTERVAL,
        }
    )


def by_prompt_and_seed(sd: StableDiffusion, prompts: list[str]) -> dict[tuple[str, int], Any]:
    options: dict[str, Any] = {
        "num_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "guidance_interval": INTERVAL,
    }
    pictures = generate(sd, prompts, [JANE], seeds=(0, 1), **options)
    return {(p.parameters["prompt"], p.parameters["seed"]): p.image for p in pictures}


def test_progress(tiny_sd: StableDiffusion, sheet: dict[str, Any], config: Any, tmp_path: Any):
    draw_progress(tiny_sd, JANE, 3, PICTURE_SIZE, epath.Path(tmp_path), config, lambda: None)
    prompts = [f"a photo of a <jane[{value}]>" for value in ("0.0", "0.5", "0.8")]
    assert (sheet["rows"], sheet["columns"]) == (["seed 0", "seed 1"], prompts)
    want = by_prompt_and_seed(tiny_sd, prompts)
    for row, seed in zip(sheet["cells"], (0, 1), strict=True):
        for cell, prompt in zip(row, prompts, strict=True):
            np.testing.assert_array_equal(cell, want[prompt, seed])


def test_the_final_grid(
    tiny_sd: StableDiffusion,
    sheet: dict[str, Any],
    config: Any,
    pictures: list[np.ndarray],
    tmp_path: Any,
):
    photos, folder = np.stack(pictures), epath.Path(tmp_path)
    draw_final(tiny_sd, JANE, photos, folder, config, lambda: None, progress=False)
    assert sheet["rows"] == ["photos", "fully [k]", "semi (k)", "fixed |k|"]
    assert sheet["columns"] == ["k = 0", "k = 1", "k = 2", "k = 3"] and sheet["rows_above"] == 1
    shown, *drawn = sheet["cells"]
    np.testing.assert_array_equal(shown, photos)
    words = [[f"<jane{left}{k}{right}>" for k in range(4)] for left, right in ("[]", "()", "||")]
    prompts = [[f"a photo of a {word} on a white background" for word in row] for row in words]
    want = by_prompt_and_seed(tiny_sd, [*chain(*prompts)])
    for row, told in zip(drawn, prompts, strict=True):
        for cell, prompt in zip(row, told, strict=True):
            np.testing.assert_array_equal(cell, want[prompt, 0])
