# SPDX-License-Identifier: Apache-2.0
"""Pictures by seed, batch, guidance and sampler; and what is compiled again."""

import dataclasses
import importlib
import json
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from tiny import PICTURE_SIZE, XL_PARTS, tiny_concept

from mrti_jax.diffusion import SAMPLERS
from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import make_mesh
from mrti_jax.sampling import Picture, generate
from mrti_jax.sampling.generate import fingerprints, pictures_at_once

PROMPT = "a photo of a red circle"
FAST: dict[str, Any] = {"sampler": "ddim", "num_steps": 12, "batch_size": 2}


def images(pictures: list[Picture]) -> np.ndarray:
    return np.stack([picture.image for picture in pictures]).astype(int)


def test_order_shape_and_parameters(tiny_sd: StableDiffusion) -> None:
    pictures = generate(tiny_sd, [PROMPT, "a dog"], seeds=[3, 7], **FAST)
    drawn = [(p.parameters["prompt"], p.parameters["seed"]) for p in pictures]
    assert drawn == [(PROMPT, 3), (PROMPT, 7), ("a dog", 3), ("a dog", 7)]
    assert all(p.image.shape == (PICTURE_SIZE, PICTURE_SIZE, 3) for p in pictures)
    assert pictures[0].parameters["sampler"] == "ddim"
    assert len({p.image.tobytes() for p in pictures}) == 4


def test_images_per_prompt_count_seeds_up(tiny_sd: StableDiffusion) -> None:
    counted = generate(tiny_sd, PROMPT, seeds=5, images_per_prompt=2, **FAST)
    given = generate(tiny_sd, PROMPT, seeds=[5, 6], **FAST)
    np.testing.assert_array_equal(images(counted), images(given))


def test_the_same_call_gives_the_same_bits(tiny_sd: StableDiffusion) -> None:
    first, second = (images(generate(tiny_sd, PROMPT, seeds=1, **FAST)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_what_is_drawn_beside_a_picture_does_not_matter(tiny_sd: StableDiffusion) -> None:
    """Bit for bit on the CPU, at any batch size and with any neighbours."""
    seeds = [9, 2, 4, 11, 0, 6, 1, 5, 3]
    alone = images([generate(tiny_sd, PROMPT, seeds=seed, **FAST)[0] for seed in seeds])
    for batch_size in (1, 2, 3, 8):
        options = FAST | {"batch_size": batch_size}
        together = images(generate(tiny_sd, [PROMPT, "a dog"], seeds=seeds, **options))
        np.testing.assert_array_equal(together[: len(seeds)], alone)


@pytest.mark.slow
def test_several_pictures_on_a_device(
    tiny_sd: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on accelerators. Within a grey level, not bit for bit: XLA sums in another order for
    another batch size, even if its pictures are decoded one by one."""
    seeds = [9, 2, 4, 11, 0, 6]
    alone = images(generate(tiny_sd, PROMPT, seeds=seeds, **FAST))
    module = importlib.import_module("mrti_jax.sampling.generate")
    monkeypatch.setattr(module, "pictures_at_once", lambda mesh, batch_size: batch_size)
    batch = FAST | {"batch_size": 8, "vae_slicing": "on"}
    together = images(generate(tiny_sd, PROMPT, seeds=seeds, **batch))
    assert np.abs(together - alone).max() <= 1


def test_noise_of_a_stochastic_sampler_is_the_seeds_own(tiny_sd: StableDiffusion) -> None:
    options = FAST | {"sampler": "euler_ancestral"}
    pair = images(generate(tiny_sd, PROMPT, seeds=[2, 9], **options))
    swapped = images(generate(tiny_sd, PROMPT, seeds=[9, 2], **options))
    np.testing.assert_array_equal(pair, swapped[::-1])


def test_the_number_of_devices_does_not_matter(tiny_folder: Path, tiny_sd: StableDiffusion) -> None:
    single = StableDiffusion.load(tiny_folder, mesh=make_mesh(jax.devices()[:1]))
    one = images(generate(single, PROMPT, seeds=[3, 4], **FAST))
    two = images(generate(tiny_sd, PROMPT, seeds=[3, 4], **FAST))
    np.testing.assert_array_equal(one, two)


def test_another_prompt_seed_guidance_or_concept_compiles_nothing(
    tiny_sd: StableDiffusion, compilations: list[str]
) -> None:
    jane = tiny_concept()
    generate(tiny_sd, "a photo of <jane>", [jane], **FAST)
    compilations.clear()
    generate(tiny_sd, "the <jane[0.5]> and <jane(3)>", [jane], **FAST)
    generate(tiny_sd, PROMPT, seeds=[3, 4, 5], **FAST)
    guidance: dict[str, Any] = {"guidance_scale": 2.5, "guidance_interval": (0.3, 0.9)}
    generate(tiny_sd, "a photo of <jane>", [jane], **guidance, **FAST)
    generate(tiny_sd, "<bob>", [tiny_concept("bob", 5, 3), jane], **FAST)
    generate(tiny_sd, "<eve>", [tiny_concept("eve", 1)], negative_prompt="blue", **FAST)
    assert compilations == []


def test_negative_prompts(tiny_sd: StableDiffusion) -> None:
    prompts = ["a dog", "a dog"]
    plain = images(generate(tiny_sd, "a dog", **FAST))[0]
    each = images(generate(tiny_sd, prompts, negative_prompt=["", "<jane> in blue"],
                           concepts=[tiny_concept()], **FAST))  # fmt: skip
    np.testing.assert_array_equal(each[0], plain)
    assert (each[1] != plain).any()
    with pytest.raises(UserError, match="3 negative prompts for 2 prompts"):
        generate(tiny_sd, prompts, negative_prompt=["a", "b", "c"], **FAST)


def test_guidance_of_one_is_no_guidance(tiny_sd: StableDiffusion) -> None:
    with pytest.warns(
        UserWarning, match="guidance scale of 1 means no guidance, so negative prompt"
    ):
        none = images(generate(tiny_sd, "a dog", guidance_scale=1, negative_prompt="red", **FAST))
    nearly = images(generate(tiny_sd, "a dog", guidance_scale=1 + 1e-6, **FAST))
    assert np.abs(none - nearly).max() <= 1  # one call of the network on 1 or on 2 examples
    full = images(generate(tiny_sd, "a dog", guidance_scale=7.5, **FAST))
    assert (full != none).any()


def test_where_no_step_is_guided(tiny_sd: StableDiffusion) -> None:
    """12 steps are 83 timesteps apart."""
    nowhere: dict[str, Any] = {"guidance_interval": (0.01, 0.02), "guidance_rescale": 0.7}
    drawn = []
    for scale in (3.0, 9.0):
        with pytest.warns(UserWarning, match="no step falls into the guidance interval from 0.01"):
            drawn.append(
                images(generate(tiny_sd, "a dog", guidance_scale=scale, **nowhere, **FAST))
            )
    np.testing.assert_array_equal(*drawn)
    none = images(generate(tiny_sd, "a dog", guidance_scale=1, **FAST))
    assert np.abs(none - drawn[0]).max() <= 1  # one call of the network on 1 or on 2 examples


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(sampler: str, tiny_sd: StableDiffusion) -> None:
    picture = generate(tiny_sd, PROMPT, **(FAST | {"sampler": sampler}))[0]
    assert picture.image.std() > 10


def test_eta_is_fresh_noise(tiny_sd: StableDiffusion) -> None:
    plain = images(generate(tiny_sd, PROMPT, **FAST))
    noisy = images(generate(tiny_sd, PROMPT, eta=1.0, **FAST))
    assert (plain != noisy).any()
    with pytest.raises(UserError, match="only DDIM has the option eta"):
        generate(tiny_sd, PROMPT, eta=1.0, **(FAST | {"sampler": "euler"}))


def test_sizes_and_v_prediction(tiny_v_sd: StableDiffusion) -> None:
    picture = generate(tiny_v_sd, PROMPT, height=24, width=18, num_steps=2, batch_size=2)[0]
    assert picture.image.shape == (24, 18, 3)
    assert picture.parameters["sampler"] == "ddim"  # the model's own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 17}, "height 17 is not a multiple of 2.*use 16 or 18"),
        ({"height": 2**17}, "height 131072 is larger than any picture: use at most 65536"),
        ({"eta": -0.5}, "eta is -0.5, but must lie between 0 and 1"),
        ({"width": 0}, "width 0 is not a multiple of 2.*use 2"),
        ({"seeds": -1}, "between 0 and 4294967295, not -1"),
        ({"seeds": []}, "nothing to draw"),
        ({"seeds": [1, 2], "images_per_prompt": 2}, "overlap"),
        ({"sampler": "dim"}, "did you mean 'ddim'"),
        ({"num_steps": 0}, "number of steps is 0"),
        ({"guidance_scale": float("inf")}, "guidance scale is inf"),
        ({"guidance_interval": (0.5, 0.2)}, r"guidance interval is \(0.5, 0.2\), but must be two"),
        ({"guidance_interval": (0.5, 0.5)}, "guidance interval is"),
        ({"guidance_interval": (0.0, 1.1)}, "guidance interval is"),
        ({"guidance_interval": (float("nan"), 1.0)}, "guidance interval is"),
        ({"negative_prompt": "<jan>", "guidance_scale": 1}, "no concept is loaded, so <jan>"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"concepts": [tiny_concept(), tiny_concept()]}, "two concepts are named 'jane'"),
        ({"concepts": [tiny_concept(parts=(("", 48),))]}, "width 48"),
    ],
)
def test_what_cannot_be_used(tiny_sd: StableDiffusion, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(tiny_sd, PROMPT, **(FAST | options))


def test_what_is_not_finite_is_told(tiny_sd: StableDiffusion) -> None:
    # 1e38 times a difference overflows float32 in one of the steps.
    with pytest.warns(UserWarning, match="'a photo of a dog' with seed 3 is black where"):
        (picture,) = generate(
            tiny_sd, "a photo of a dog", seeds=3, **FAST | {"guidance_scale": 1e38}
        )
    assert not picture.image.all()


def test_steps_that_skip_buckets_of_a_word_are_told(tiny_sd: StableDiffusion) -> None:
    few: dict[str, Any] = {"sampler": "ddim", "num_steps": 5, "batch_size": 2}
    with pytest.warns(UserWarning, match=r"5 steps skip buckets 1, 3, 5, 7, 9 of <jane>: .*; 10 "):
        generate(tiny_sd, "a <jane>", [tiny_concept()], **few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(tiny_sd, "a <jane|3|>", [tiny_concept()], **few)  # its one row is always used
        generate(tiny_sd, "a dog", [tiny_concept()], **few)
    with pytest.warns(UserWarning, match="5 steps skip buckets") as told:
        generate(tiny_sd, ["<jane>", "<jane[2]>", "<jane[5]>"], [tiny_concept()], **few)
    assert len(told) == 1


def test_pictures_come_as_they_are_drawn(tiny_sd: StableDiffusion) -> None:
    events: list[Any] = []
    pictures = generate(
        tiny_sd,
        ["a dog", "a cat"],
        seeds=[1, 2],
        on_progress=lambda done, total: events.append(done),
        on_picture=events.append,
        **FAST,
    )
    assert [event for event in events if isinstance(event, Picture)] == pictures
    drawn = 0
    for event in events:
        if isinstance(event, Picture):
            drawn += 1
        else:
            assert event == drawn


def test_parameters_tell_what_was_said_of_the_model(
    tiny_folder: Path, tiny_sd: StableDiffusion
) -> None:
    source = dataclasses.replace(tiny_sd.source, prediction_type="v_prediction")
    (picture,) = generate(dataclasses.replace(tiny_sd, source=source), PROMPT, **FAST)
    assert picture.parameters["prediction_type"] == "v_prediction"
    assert picture.parameters["model"] == str(tiny_folder)


def test_the_parameters_are_all_it_takes_to_draw_it_again(tiny_xl_sd: StableDiffusion) -> None:
    jane = tiny_concept(parts=XL_PARTS)
    (picture,) = generate(
        tiny_xl_sd,
        "a <jane(5)>",
        [jane],
        seeds=3,
        num_steps=12,
        guidance_scale=4.5,
        guidance_rescale=0.7,
        guidance_interval=(0.2, 0.9),
        negative_prompt="a red <jane[2]>",
        height=20,
        width=12,
        original_size=(40, 30),
        crop=(3, 5),
        target_size=(50, 60),
        sampler="ddim",
        eta=0.6,
        nothing="drop",
        official_semi=True,
    )
    told = json.loads(json.dumps(picture.parameters))
    prompt, seed = told.pop("prompt"), told.pop("seed")
    for about_the_inputs in ("model", "dtype", "concepts"):
        del told[about_the_inputs]
    for pair in ("original_size", "crop", "target_size", "guidance_interval"):
        told[pair] = tuple(told[pair])
    (again,) = generate(tiny_xl_sd, prompt, [jane], seeds=seed, **told)
    np.testing.assert_array_equal(again.image, picture.image)
    assert again.parameters == picture.parameters


def test_tables_of_one_name_have_fingerprints_of_their_own() -> None:
    jane = tiny_concept()
    tables = [
        jane,
        dataclasses.replace(jane, embeddings=jane.embeddings + 1),
        dataclasses.replace(jane, boundaries=jane.boundaries + np.eye(11, dtype=np.int32)[5]),
    ]
    told = [fingerprints(["a <jane[3]>"], {"jane": table})["jane"] for table in tables]
    assert len(set(told)) == 3
    assert fingerprints(["a <jane>"], {"jane": tiny_concept()})["jane"] == told[0]


@pytest.mark.parametrize(("batch_size", "at_once"), [(8, 8), (4, 8), (20, 16)])
def test_gpus_share_a_batch_evenly(batch_size: int, at_once: int) -> None:
    gpus = [
        mock.Mock(spec=jax.Device, id=i, process_index=0, platform="gpu", device_kind="H100")
        for i in range(8)
    ]
    assert pictures_at_once(make_mesh(gpus), batch_size) == at_once
    assert pictures_at_once(make_mesh(), batch_size) == len(jax.devices())  # CPUs: one each
