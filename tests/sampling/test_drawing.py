# SPDX-License-Identifier: Apache-2.0
"""The sheet of all pictures: each is what its labels say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_concept

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling import generate
from mrti_jax.sampling.drawing import draw_prompts, draw_sweep

FAST: dict[str, Any] = {"sampler": "ddim", "num_steps": 12, "batch_size": 2}
JANE = tiny_concept()


@pytest.fixture
def sheet(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the sheet was made of."""
    made: dict[str, Any] = {}

    def record(cells: Any, rows: list[str], columns: list[str], title: str) -> Image.Image:
        made.update(cells=cells, rows=rows, columns=columns, title=title)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("mrti_jax.sampling.drawing.make_grid", record)
    return made


def check(cells: Any, sd: StableDiffusion, told: list[list[tuple[str, int]]]) -> None:
    """Compares the cells with what each prompt and seed gives alone."""
    for row, pairs in zip(cells, told, strict=True):
        for cell, (prompt, seed) in zip(row, pairs, strict=True):
            (alone,) = generate(sd, prompt, [JANE], seeds=seed, **FAST)
            np.testing.assert_array_equal(cell, alone.image)


def test_prompts_and_seeds(tiny_sd: StableDiffusion, sheet: dict[str, Any], tmp_path: Path) -> None:
    prompts = ["a <jane>", "a dog"]
    draw_prompts(tiny_sd, prompts, [JANE], tmp_path, seeds=[3, 8], **FAST)
    assert (sheet["rows"], sheet["columns"]) == (prompts, ["seed 3", "seed 8"])
    check(sheet["cells"], tiny_sd, [[(prompt, seed) for seed in (3, 8)] for prompt in prompts])


def test_more_seeds_than_columns(
    tiny_sd: StableDiffusion,
    sheet: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mrti_jax.sampling.drawing.MAX_COLUMNS", 2)
    draw_prompts(tiny_sd, ["a dog", "a cat"], [], tmp_path, seeds=[3, 8, 5], **FAST)
    starts = [f"a {animal} - from seed {seed}" for animal in ("dog", "cat") for seed in (3, 5)]
    assert (sheet["rows"], sheet["columns"]) == (starts, [])
    check(
        sheet["cells"],
        tiny_sd,
        [[(f"a {it}", s) for s in seeds] for it in ("dog", "cat") for seeds in ([3, 8], [5])],
    )


def test_a_sweep(tiny_sd: StableDiffusion, sheet: dict[str, Any], tmp_path: Path) -> None:
    templates = ["a <jane[{k}]>", "a red <jane|{k}|>"]
    draw_sweep(tiny_sd, templates, [JANE], tmp_path, values=["2", "7"], **FAST)
    assert (sheet["rows"], sheet["columns"]) == (templates, ["k = 2", "k = 7"])
    told = [[(text.replace("{k}", k), 0) for k in ("2", "7")] for text in templates]
    check(sheet["cells"], tiny_sd, told)
    assert sheet["title"].endswith(", seed 0")
    with Image.open(tmp_path / "grid.png") as file:
        parameters = json.loads(file.text["mrti_jax"])  # type: ignore[attr-defined]
    found = [[(one["prompt"], one["seed"]) for one in row] for row in parameters]
    assert found == told
