# SPDX-License-Identifier: Apache-2.0
"""Whole pictures against PyTorch's pipelines, from the same folder and latents."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.stored.find import mini_folder
from mrti_jax.sampling import generate

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*"),
]

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
}
PROMPT, NEGATIVE, SEED = "a photo of a red circle!! and more!", "a blue square!", 5


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_sd1(sampler: str, tiny_folder: Path, tiny_sd: StableDiffusion) -> None:
    compare(sampler, tiny_folder, tiny_sd)


@pytest.mark.parametrize(
    ("sampler", "outdated"),
    [
        ("ddim", {"steps_offset": 0}),
        ("ddim", {"clip_sample": True}),
        ("pndm", {"steps_offset": None}),
        ("euler", {"steps_offset": None, "timestep_spacing": "leading"}),
    ],
    ids=["offset", "clip", "pndm", "euler"],
)
@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_outdated_scheduler_config(
    sampler: str, outdated: dict[str, Any], tiny_folder: Path, tmp_path: Path
) -> None:
    """Which diffusers' pipeline of 1.x and 2.x corrects."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"_class_name": SCHEDULERS[sampler]} | outdated
    path.write_text(json.dumps({key: v for key, v in config.items() if v is not None}))
    index = folder / "model_index.json"
    scheduler = ["diffusers", SCHEDULERS[sampler]]
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": scheduler}))
    compare(None, folder, StableDiffusion.load(folder))


def test_sd2(tiny_v_folder: Path, tiny_v_sd: StableDiffusion) -> None:
    compare("ddim", tiny_v_folder, tiny_v_sd)


def test_guidance_in_an_interval(tiny_folder: Path, tiny_sd: StableDiffusion) -> None:
    """PyTorch's pipeline lets the scale be changed between steps: of 12, all but the last three."""

    def change(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 8:  # 9 steps are done
            pipeline._guidance_scale = 1.0
            values["prompt_embeds"] = values["prompt_embeds"][1:]
        return values

    theirs = {
        "callback_on_step_end": change,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    # Steps are 83 timesteps apart, from 1 on.
    compare("ddim", tiny_folder, tiny_sd, {"guidance_interval": (0.2, 1.0)}, theirs)


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_sd2_from_pure_noise(sampler: str, tiny_v_folder: Path, tiny_v_sd: StableDiffusion) -> None:
    """Zero terminal SNR: the first step is at the last timestep, where nothing is left."""
    schedule = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config = tiny_v_sd.scheduler_config | schedule
    rescaled = dataclasses.replace(tiny_v_sd, scheduler_config=config)
    rescale = {"guidance_rescale": 0.7}
    compare(sampler, tiny_v_folder, rescaled, rescale, rescale)


@pytest.mark.parametrize(
    ("sampler", "ours", "theirs"),
    [
        ("euler", {}, {}),
        # No negative prompt: both guide away from zeros.
        ("dpmpp_2m", {"negative_prompt": ""}, {"negative_prompt": None}),
        (
            "euler",
            {"original_size": (40, 24), "crop": (3, 5), "target_size": (32, 48)},
            {"original_size": (40, 24), "crops_coords_top_left": (3, 5), "target_size": (32, 48)},
        ),
    ],
    ids=["plain", "no-negative", "sizes"],
)
def test_xl(
    sampler: str,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    tiny_xl_folder: Path,
    tiny_xl_sd: StableDiffusion,
) -> None:
    compare(sampler, tiny_xl_folder, tiny_xl_sd, ours, theirs)


def test_embedded_model() -> None:
    compare("ddim", Path(mini_folder()), StableDiffusion.load())


@pytest.mark.parametrize("folder", ["tiny_folder", "tiny_v_folder", "tiny_xl_folder"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_a_folder_that_diffusers_wrote(
    folder: str, safe: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Draws the same, bit for bit, as the folder that it was read from."""
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    read = request.getfixturevalue(folder)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(read)
    pipeline.save_pretrained(tmp_path, safe_serialization=safe)
    first, second = (
        generate(StableDiffusion.load(path), PROMPT, num_steps=2)[0].image
        for path in (read, tmp_path)
    )
    np.testing.assert_array_equal(first, second)


def compare(
    sampler: str | None,
    folder: Path,
    sd: StableDiffusion,
    ours: dict[str, Any] | None = None,
    theirs: dict[str, Any] | None = None,
) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    ours = {"negative_prompt": NEGATIVE} | (ours or {})
    theirs = {"negative_prompt": ours["negative_prompt"]} | (theirs or {})
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline = pipeline.to(torch.float32)  # what is stored in float16 as well
    pipeline.set_progress_bar_config(disable=True)
    if sampler is not None:
        scheduler = getattr(diffusers, SCHEDULERS[sampler])
        pipeline.scheduler = scheduler.from_config(sd.scheduler_config)
    key = jax.random.fold_in(jax.random.key(SEED), 0)
    size = sd.unet.config.sample_size
    latents = np.asarray(jax.random.normal(key, (size, size, 4)))
    expected = pipeline(
        PROMPT,
        num_inference_steps=12,
        guidance_scale=5.0,
        latents=torch.tensor(latents.transpose(2, 0, 1)[None].copy()),
        output_type="np",
        **theirs,
    ).images[0]
    (picture,) = generate(
        sd,
        PROMPT,
        seeds=SEED,
        num_steps=12,
        guidance_scale=5.0,
        sampler=sampler,
        batch_size=2,
        **ours,
    )
    assert picture.image.std() > 10
    # Half a grey level from rounding to whole ones; float32 in another order, over 12 steps.
    assert np.abs(picture.image - 255 * expected).max() < 0.6
