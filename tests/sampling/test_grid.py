# SPDX-License-Identifier: Apache-2.0
"""Labelled sheets, and sweeps over resolution."""

from typing import Any

import numpy as np
import pytest
from tiny import PICTURE_SIZE, tiny_concept

from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling import generate
from mrti_jax.sampling.grid import GAP, MARGIN, MIN_CELL, make_grid
from mrti_jax.sampling.sweep import default_values, scheme_templates, sweep

FAST: dict[str, Any] = {"sampler": "ddim", "num_steps": 12, "batch_size": 2}


def solid(value: int, size: int = 64) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_bare_grid_has_the_pictures_in_their_places() -> None:
    sheet = np.asarray(make_grid([[solid(10), solid(90)], [solid(170), None]]))
    side = 2 * MARGIN + 2 * MIN_CELL + GAP
    assert sheet.shape == (side, side, 3)
    ends = [MARGIN, MARGIN + MIN_CELL + GAP]
    corners = [sheet[y + 3, x + 3, 0] for y in ends for x in ends]
    assert corners[:3] == [10, 90, 170] and corners[3] > 200
    assert (sheet[:MARGIN] == 255).all() and (sheet[:, -MARGIN:] == 255).all()


def test_large_pictures_keep_their_size() -> None:
    sheet = make_grid([[solid(0, 200)]])
    assert sheet.size == (200 + 2 * MARGIN, 200 + 2 * MARGIN)


def test_labels_and_title_take_room_of_their_own() -> None:
    cells = [[solid(0), solid(0)]]
    bare = make_grid(cells)
    sheet = make_grid(cells, ["a row " * 20], ["first", "unbroken" * 30], "a title " * 40)
    assert sheet.width > bare.width and sheet.height > bare.height
    below = np.asarray(sheet)[-MARGIN - MIN_CELL : -MARGIN, -MARGIN - MIN_CELL : -MARGIN]
    assert (below == 0).all()  # nothing is written over a picture
    edge = np.asarray(sheet)[:, -MARGIN:]
    assert (edge == 255).all()  # nor runs off the sheet


def test_a_row_is_as_high_as_its_label() -> None:
    prompt = "a photo of a <jane({k})> on a white background, " * 5
    cells = [[solid(10), solid(90)], [solid(170), solid(50)], [solid(30), solid(70)]]
    labels = [prompt, prompt, "short"]
    sheet = np.asarray(make_grid(cells, labels, ["k = 0", "k = 1"], rows_above=1))
    left = sheet.shape[1] - MARGIN - 2 * MIN_CELL - GAP
    pictures = sheet[:, left + 3, 0]  # down the first column
    tops = [int(np.flatnonzero(pictures == value)[0]) for value in (10, 170, 30)]
    assert all((pictures == value).sum() == MIN_CELL for value in (10, 170, 30))
    inked = (sheet[:, :left] < 100).any(axis=(1, 2))
    # Runs of lines of ink, apart by less than a line: one per label, in the middle of its pictures.
    places = np.flatnonzero(inked)
    blocks = np.split(places, np.flatnonzero(np.diff(places) > GAP) + 1)
    assert len(blocks) == 3 and len(blocks[0]) > MIN_CELL / 2
    for block, top in zip(blocks, tops, strict=True):
        assert abs((block[0] + block[-1]) / 2 - (top + MIN_CELL / 2)) < GAP
    assert blocks[0][-1] - blocks[0][0] > MIN_CELL and sheet.shape[0] - MARGIN == tops[2] + MIN_CELL


def test_column_labels_stand_below_the_rows_that_they_are_not_for() -> None:
    cells = [[solid(10)], [solid(90)]]
    plain = make_grid(cells).height
    sheet = np.asarray(make_grid(cells, None, ["k = 0"], rows_above=1))
    assert sheet[MARGIN + 3, MARGIN + 3, 0] == 10
    second = MARGIN + MIN_CELL + GAP + sheet.shape[0] - plain
    assert sheet[second + 3, MARGIN + 3, 0] == 90
    between = sheet[MARGIN + MIN_CELL : second]
    assert between.min() < 100  # the label's ink


def test_sweep_has_one_column_per_bucket_and_the_same_noise_in_a_row(
    tiny_sd: StableDiffusion,
) -> None:
    jane = tiny_concept(num_buckets=5)
    result = sweep(tiny_sd, "a <jane[{k}]>", [jane], seeds=[3, 8], **FAST)
    assert result.row_labels == ["seed 3", "seed 8"]
    assert result.column_labels == [f"k = {k}" for k in range(5)]
    for row, seed in zip(result.pictures, [3, 8], strict=True):
        assert {picture.parameters["seed"] for picture in row} == {seed}
    (alone,) = generate(tiny_sd, "a <jane[2]>", [jane], seeds=8, **FAST)
    np.testing.assert_array_equal(result.pictures[1][2].image, alone.image)


def test_sweep_over_the_schemes(tiny_sd: StableDiffusion) -> None:
    result = sweep(
        tiny_sd, "a <jane[{k}]>", [tiny_concept()], rows="schemes", values=[0, 0.9], **FAST
    )
    assert result.row_labels == ["fully [k]", "semi (k)", "fixed |k|"]
    prompts = [[picture.parameters["prompt"] for picture in row] for row in result.pictures]
    assert prompts == [
        ["a <jane[0]>", "a <jane[0.9]>"],
        ["a <jane(0)>", "a <jane(0.9)>"],
        ["a <jane|0|>", "a <jane|0.9|>"],
    ]
    fully, semi, fixed = result.pictures
    np.testing.assert_array_equal(fully[0].image, semi[0].image)
    np.testing.assert_array_equal(fully[1].image, fixed[1].image)
    assert fully[0].image.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)


def test_sweep_of_several_prompts(tiny_sd: StableDiffusion) -> None:
    templates = ["a <jane[{k}]>", "a red <jane({k})>"]
    options = {"values": ["0", "9"], "seeds": [3, 8]} | FAST
    result = sweep(tiny_sd, templates, [tiny_concept()], **options)
    assert result.row_labels == [f"{text}, seed {seed}" for text in templates for seed in (3, 8)]
    told = [
        [(picture.parameters["prompt"], picture.parameters["seed"]) for picture in row]
        for row in result.pictures
    ]
    assert told == [
        [(text.replace("{k}", k), seed) for k in ("0", "9")]
        for text in templates
        for seed in (3, 8)
    ]
    of_one_seed = sweep(tiny_sd, templates, [tiny_concept()], **options | {"seeds": 8})
    assert of_one_seed.row_labels == templates
    np.testing.assert_array_equal(of_one_seed.pictures[1][1].image, result.pictures[3][1].image)


def test_values_of_concepts_with_different_buckets() -> None:
    concepts = [tiny_concept("jane", 4), tiny_concept("bob", 10), tiny_concept("eve", 3)]
    assert default_values(["<jane[{k}]>"], concepts) == ["0", "1", "2", "3"]
    assert default_values(["<jane[{k}]>", "<bob[{k}]>"], concepts)[:2] == ["0.0", "0.1"]
    assert default_values(["<jane[{k}]> and <bob(0)>"], concepts) == ["0", "1", "2", "3"]


def test_templates_without_a_place_for_k(tiny_sd: StableDiffusion) -> None:
    with pytest.raises(UserError, match=r"has no \{k\}"):
        sweep(tiny_sd, ["a <jane[{k}]>", "a <jane>"], [tiny_concept()], values=["0.5"])
    with pytest.raises(UserError, match=r"'a <jane\{k\}>' has <jane\{k\}>: write <jane\[\{k\}\]>"):
        sweep(tiny_sd, "a <jane{k}>", [tiny_concept()])
    with pytest.raises(UserError, match="whose scheme"):
        scheme_templates("{k} dogs")
