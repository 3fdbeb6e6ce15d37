# SPDX-License-Identifier: Apache-2.0
"""All stages of the embedded model's build, a step of each."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrti_jax.errors import UserError
from mrti_jax.mini.build import Build, build
from mrti_jax.mini.names import load_map, save_map
from mrti_jax.mini.recipe import Amounts
from mrti_jax.models.frozen import Params
from mrti_jax.models.stable_diffusion import StableDiffusion

ONE_STEP = Amounts(
    vae_pictures=4,
    vae_steps=1,
    vae_full_steps=0,
    vae_batch=2,
    decoder_steps=1,
    decoder_batch=2,
    text_steps=1,
    text_batch=2,
    unet_pictures=4,
    unet_steps=1,
    unet_batch=2,
    full_context_steps=0,
)

NO_STEP = dataclasses.replace(ONE_STEP, decoder_steps=0, unet_steps=0)


@pytest.mark.long
def test_builds_a_model_and_trains_one_on(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    build(Build(first, str(tmp_path / "work1"), None, ONE_STEP))
    before = StableDiffusion.load(first)
    assert 0.05 < before.vae.config.scaling_factor < 20
    assert before.scheduler_config["prediction_type"] == "v_prediction"

    names = load_map(first)
    save_map(np.full_like(names, 0.5), first)
    merges = Path(first) / "tokenizer" / "merges.txt"
    merges.write_text("".join(merges.read_text().splitlines(keepends=True)[:-1]))
    build(Build(second, str(tmp_path / "work2"), first, ONE_STEP))
    after = StableDiffusion.load(second)
    assert (Path(second) / "tokenizer" / "merges.txt").read_text() == merges.read_text()
    assert after.vae.config == before.vae.config
    for part, weights in after.vae.params.items():
        trained = part in ("decoder", "post_quant_conv")
        assert same(weights, before.vae.params[part]) != trained
    assert not same(after.unet.params, before.unet.params)
    np.testing.assert_allclose(load_map(second), 0.5, atol=2e-3)  # one step of Adam


def test_a_model_of_another_noise_schedule_is_not_trained_on(
    tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(UserError, match=f"'{tiny_folder}' has a different noise schedule"):
        build(Build(str(tmp_path / "out"), str(tmp_path / "work"), str(tiny_folder), ONE_STEP))


def test_a_work_folder_is_of_one_build(tmp_path: Path) -> None:
    settings = Build(str(tmp_path / "out"), str(tmp_path / "work"), "mini", NO_STEP)
    for _ in range(2):
        build(settings)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"amounts": dataclasses.replace(NO_STEP, unet_steps=1)}, "unet_steps is 0, not 1"),
        ({"start": None}, "start is 'mini', not None"),
        ({"out": "mini"}, r"the embedded model's, so write \./mini"),
    ]
    for change, told in changes:
        with pytest.raises(UserError, match=told) as caught:
            build(dataclasses.replace(settings, **change))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["work", "out"])
def test_a_folder_with_something_else_is_left_alone(other: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    folders = {"work": str(tmp_path / "a"), "out": str(tmp_path / "b"), other: str(tmp_path)}
    with pytest.raises(UserError, match=f"--{other} .* holds something else"):
        build(Build(**folders, amounts=ONE_STEP))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_less_than_nothing_is_refused(tmp_path: Path) -> None:
    amounts = dataclasses.replace(ONE_STEP, vae_pictures=-1)
    with pytest.raises(UserError, match="vae_pictures is -1, but must be at least 1"):
        build(Build(str(tmp_path / "out"), str(tmp_path / "work"), amounts=amounts))
    assert not list(tmp_path.iterdir())


def same(a: Params, b: Params) -> bool:
    """Whether two modules have the same weights."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)
