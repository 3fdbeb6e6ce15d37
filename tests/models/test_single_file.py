# SPDX-License-Identifier: Apache-2.0
"""Single files in the original layout give the same as the same model in a diffusers folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrti_jax.errors import UserError
from mrti_jax.models.describe import describe
from mrti_jax.models.source import ModelSource
from mrti_jax.models.stored.find import open_model
from mrti_jax.models.stored.model import StoredModel
from mrti_jax.models.stored.single_file import TOKENIZER

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from diffusers.loaders import single_file_utils  # noqa: E402
from ldm import Family, States, states_of, tiny_models, to_ldm  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

FAMILIES: list[Family] = ["sd1", "sd2", "sdxl"]
# OpenCLIP's layer that Stable Diffusion 2.x leaves out: any number would do.
LEFT_OUT = "cond_stage_model.model.transformer.resblocks.23.mlp.c_fc.weight"


@pytest.fixture(scope="module")
def models() -> dict[Family, dict[str, Any]]:
    return {family: tiny_models(family, 23 if family == "sd2" else 2) for family in FAMILIES}


@pytest.fixture(scope="module")
def states(models: dict[Family, dict[str, Any]]) -> dict[Family, States]:
    return {family: states_of(parts) for family, parts in models.items()}


@pytest.fixture(scope="module")
def files(states: dict[Family, States]) -> dict[Family, dict[str, Any]]:
    """The tensors of a single file of each family."""
    return {family: to_ldm(family, parts) for family, parts in states.items()}


def write(path: Path, tensors: dict[str, Any], **content: Any) -> str:
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, content or None)
    else:
        torch.save({"state_dict": tensors, **content}, path)
    return str(path)


def assert_same(stored: StoredModel, expected: States) -> None:
    assert stored.modules.keys() == expected.keys()
    for part, module in stored.modules.items():
        arrays = {name: tensor.read() for name, tensor in module.tensors.items()}
        np.testing.assert_equal(arrays, {k: v.numpy() for k, v in expected[part].items()})


def error_of(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        open_model(ModelSource(path=str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*doesn't say what its U-Net predicts")
def test_tensors_and_configs(
    tmp_path: Path,
    models: dict[Family, dict[str, Any]],
    states: dict[Family, States],
    files: dict[Family, dict[str, Any]],
    family: Family,
    suffix: str,
) -> None:
    # The file's name says nothing.
    stored = open_model(ModelSource(path=write(tmp_path / f"a{suffix}", files[family])))
    assert_same(stored, states[family])
    assert stored.unused == ()
    for part, module in stored.modules.items():
        theirs = models[family][part].config
        for key, value in module.config.items():
            if key not in ("_class_name", "model_type", "force_upcast"):
                expected = theirs[key] if part in ("unet", "vae") else getattr(theirs, key)
                got = tuple(value) if isinstance(value, list) else value
                assert got == (tuple(expected) if isinstance(expected, list) else expected), key
    assert stored.scheduler_config["prediction_type"] == (
        "v_prediction" if family == "sd2" else "epsilon"
    )
    # Version 2 and XL's second encoder pad with "!", the others with the end of the text.
    pads = {"sd1": [None], "sd2": ["!"], "sdxl": [None, "!"]}[family]
    assert [t.pad_token for t in stored.tokenizers.values()] == pads
    assert {t.where for t in stored.tokenizers.values()} == {TOKENIZER}


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_reads_the_same_from_these_names(
    models: dict[Family, dict[str, Any]],
    states: dict[Family, States],
    files: dict[Family, dict[str, Any]],
    family: Family,
) -> None:
    """So that the names that these tests write are the real ones."""
    ldm, parts = files[family], models[family]
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(ldm), dict(parts["unet"].config))
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(ldm), dict(parts["vae"].config))
    converted = {"unet": unet, "vae": vae}
    if family != "sd2":
        prefix = {"sd1": "cond_stage_model.", "sdxl": "conditioner.embedders.0."}[family]
        prefix += "transformer."
        converted["text_encoder"] = single_file_utils.convert_ldm_clip_checkpoint(
            dict(ldm), remove_prefix=prefix
        )
    if family != "sd1":
        part = {"sd2": "text_encoder", "sdxl": "text_encoder_2"}[family]
        prefix = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}[
            family
        ]
        converted[part] = single_file_utils.convert_open_clip_checkpoint(
            parts[part], {prefix + "text_projection": torch.eye(64), **ldm}, prefix=prefix
        )
    for part, tensors in converted.items():
        got = {name.removeprefix("text_model."): tensor.numpy() for name, tensor in tensors.items()}
        if part != "text_encoder_2":
            got.pop("text_projection.weight", None)
        got = {name: value for name, value in got.items() if not name.endswith("position_ids")}
        np.testing.assert_equal(got, {k: v.numpy() for k, v in states[family][part].items()})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*doesn't say what its U-Net predicts")
def test_they_fit_our_modules(
    tmp_path: Path, files: dict[Family, dict[str, Any]], family: Family
) -> None:
    path = write(tmp_path / "a.safetensors", files[family])
    told = describe("a", open_model(ModelSource(path=path)))
    assert "tensors: all present, none unused" in told
    assert told[0] == "a: single file in the original layout"


def test_leftovers_of_training_and_old_names(
    tmp_path: Path, states: dict[Family, States], files: dict[Family, dict[str, Any]]
) -> None:
    extra = {
        "alphas_cumprod": torch.ones(3),
        "sqrt_recip_alphas_cumprod": torch.ones(3),
        "sqrt_recipm1_alphas_cumprod": torch.ones(3),
        "sqrt_one_minus_alphas_cumprod": torch.ones(3),
        "posterior_mean_coef1": torch.ones(3),
        "model_ema.decay": torch.ones(()),
        "first_stage_model.loss.logvar": torch.ones(()),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "embedding_manager.placeholder": torch.ones(4),
    }
    path = write(tmp_path / "a.ckpt", files["sd1"] | extra, global_step=470000)
    stored = open_model(ModelSource(path=path))
    assert_same(stored, states["sd1"])
    assert stored.unused == ("embedding_manager.placeholder",)


@pytest.mark.parametrize(
    ("family", "encoder"), [("sd1", "cond_stage_model"), ("sdxl", "conditioner.embedders.0")]
)
def test_leftovers_of_whole_parts(
    tmp_path: Path,
    states: dict[Family, States],
    files: dict[Family, dict[str, Any]],
    family: Family,
    encoder: str,
) -> None:
    extra = {
        f"{encoder}.transformer.text_projection.weight": torch.ones(3, 3),
        f"{encoder}.transformer.vision_model.pre_layrnorm.bias": torch.ones(3),
        f"{encoder}.logit_scale": torch.ones(()),
        "first_stage_model.model_ema.decay": torch.ones(()),
    }
    stored = open_model(ModelSource(path=write(tmp_path / "a.ckpt", files[family] | extra)))
    assert_same(stored, states[family])
    assert stored.unused == (
        "text_encoder: text_projection.weight",
        "text_encoder: vision_model.pre_layrnorm.bias",
        "vae: model_ema.decay",
    )


def test_autoencoder_with_attention_as_in_diffusers(
    tmp_path: Path, states: dict[Family, States], files: dict[Family, dict[str, Any]]
) -> None:
    names = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    renamed = {}
    for name, tensor in files["sd1"].items():
        for old, new in names.items():
            name = name.replace(f".attn_1.{old}.", f".attn_1.{new}.")
        renamed[name] = tensor
    assert renamed.keys() != files["sd1"].keys()
    assert_same(open_model(ModelSource(path=write(tmp_path / "a.ckpt", renamed))), states["sd1"])


def test_attention_of_the_autoencoder_that_is_no_linear_map(
    tmp_path: Path, files: dict[Family, dict[str, Any]]
) -> None:
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    path = write(tmp_path / "a.ckpt", files["sd1"] | {name: torch.ones(64, 64, 3, 3)})
    told = "\n".join(describe("a", open_model(ModelSource(path=path))))
    assert "to_q.weight' has shape [64, 64, 3, 3], but the config asks for [64, 64]" in told


def test_a_folder_that_holds_a_single_file(
    tmp_path: Path, files: dict[Family, dict[str, Any]]
) -> None:
    path = write(tmp_path / "a.safetensors", files["sd1"])
    assert f"holds a model in a single file: give {path}" in error_of(tmp_path)


def test_weights_and_not_their_ema_copy(
    tmp_path: Path, states: dict[Family, States], files: dict[Family, dict[str, Any]]
) -> None:
    prefix = "model.diffusion_model."
    ema = {
        "model_ema.diffusion_model" + name.removeprefix(prefix).replace(".", ""): tensor + 1
        for name, tensor in files["sd1"].items()
        if name.startswith(prefix)
    }
    stored = open_model(ModelSource(path=write(tmp_path / "a.ckpt", files["sd1"] | ema)))
    assert_same(stored, states["sd1"])
    assert stored.unused == ("model_ema.diffusion_model* (the EMA copy of the U-Net)",)


def test_a_level_of_any_number(tmp_path: Path, files: dict[Family, dict[str, Any]]) -> None:
    name = f"model.diffusion_model.down_blocks.{10**11}.x"
    path = write(tmp_path / "a.ckpt", files["sd1"] | {name: torch.ones(3)})
    told = "\n".join(describe("a", open_model(ModelSource(path=path))))
    assert f"WRONG: unet: 1 tensors are not part of this module: down_blocks.{10**11}.x" in told


@pytest.mark.parametrize(
    ("family", "suffix", "content", "flag", "expected", "pixels"),
    [
        ("sd2", ".ckpt", {"global_step": 875000}, None, "epsilon", 512),
        ("sd2", ".safetensors", {"modelspec.prediction_type": "epsilon"}, None, "epsilon", 512),
        ("sd2", ".safetensors", {"modelspec.prediction_type": "v"}, None, "v_prediction", 768),
        ("sd2", ".safetensors", {}, "epsilon", "epsilon", 512),
        ("sdxl", ".safetensors", {"modelspec.prediction_type": "v"}, None, "v_prediction", 1024),
        ("sd1", ".safetensors", {}, "v_prediction", "v_prediction", 512),
    ],
)
def test_prediction_type(
    tmp_path: Path,
    files: dict[Family, dict[str, Any]],
    family: Family,
    suffix: str,
    content: dict[str, Any],
    flag: Any,
    expected: str,
    pixels: int,
) -> None:
    path = write(tmp_path / f"a{suffix}", files[family], **content)
    stored = open_model(ModelSource(path=path, prediction_type=flag))
    assert stored.scheduler_config["prediction_type"] == expected
    assert 8 * stored.modules["unet"].config["sample_size"] == pixels


def test_what_sd2_predicts_is_a_guess_and_told(
    tmp_path: Path, states: dict[Family, States], files: dict[Family, dict[str, Any]]
) -> None:
    left_out = {LEFT_OUT: torch.ones(4)}
    path = write(tmp_path / "a.safetensors", files["sd2"] | left_out)
    with pytest.warns(UserWarning, match="--prediction-type epsilon"):
        stored = open_model(ModelSource(path=path))
    assert_same(stored, states["sd2"])
    assert stored.unused == ()


def test_markers_of_v_prediction_and_zero_terminal_snr(
    tmp_path: Path, files: dict[Family, dict[str, Any]]
) -> None:
    markers = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = write(tmp_path / "a.safetensors", files["sdxl"] | markers)
    config = open_model(ModelSource(path=path)).scheduler_config
    assert config["prediction_type"] == "v_prediction" and config["rescale_betas_zero_snr"]


def widened(tensors: dict[str, Any], channels: int) -> dict[str, Any]:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    return tensors | {name: tensors[name].repeat(1, 3, 1, 1)[:, :channels]}


def without(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


def only(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def with_names_of_transformers(files: dict[Family, dict[str, Any]]) -> dict[str, Any]:
    """The U-Net of 2.x and a text encoder as in 1.x."""
    text = "cond_stage_model.transformer."
    others = without("cond_stage_model.", files["sd2"])
    return others | {k: v for k, v in files["sd1"].items() if k.startswith(text)}


ONE = torch.ones(3, 4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: widened(t["sd1"], 9), "is an inpainting model"),
        (lambda t: widened(t["sdxl"], 8), "is an InstructPix2Pix model"),
        (
            lambda t: widened(without("cond_stage_model.", t["sd1"]), 9),
            "is an inpainting model, which edits pictures: a whole",
        ),
        (
            lambda t: t["sd2"] | {"model.diffusion_model.label_emb.0.0.weight": ONE},
            "is an unCLIP model",
        ),
        # Its noise level is an embedding.
        (
            lambda t: widened(t["sd2"], 7) | {"model.diffusion_model.label_emb.weight": ONE},
            "is an upscaler",
        ),
        (lambda t: widened(t["sd2"], 9), "is an inpainting model"),
        (
            lambda t: t["sd1"] | {"model.diffusion_model.time_embed.cond_proj.weight": ONE},
            "is a Latent Consistency Model",
        ),
        (
            lambda t: t["sd1"] | {"model.diffusion_model.time_embedding.cond_proj.weight": ONE},
            "use the model that it was distilled from",
        ),
        (with_names_of_transformers, "names of Stable Diffusion 1.x, but the U-Net of 2.x"),
        (
            lambda t: without("conditioner.embedders.1.model.text_projection", t["sdxl"]),
            "lacks conditioner.embedders.1.model.text_projection, of its second text encoder",
        ),
        (lambda t: t["sdxl"] | {"edm_vpred.sigma_max": ONE}, "has the noise levels of EDM"),
        (lambda t: t["sdxl"] | {"edm_mean": ONE}, "has the noise levels of EDM"),
        (
            lambda t: {
                k.replace("model.diffusion_model.", "model_ema.diffusion_model"): v
                for k, v in t["sd1"].items()
            },
            "is only the EMA copy of a U-Net",
        ),
        (lambda _: {"encoder.block.0.layer.0.SelfAttention.q.weight": ONE}, "is T5"),
        (
            lambda _: {
                "model.diffusion_model.input_blocks.0.0.weight": torch.ones(3, 8, 3, 3),
                "conditioner.embedders.0.open_clip.model.visual.proj": ONE,
            },
            "is Stable Video Diffusion",
        ),
        (
            lambda t: t["sd1"] | {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(9)},
            "has some of the wrong shape",
        ),
        (
            lambda t: t["sd1"] | {"model.diffusion_model.middle_block.x": ONE},
            "has some of the wrong shape",
        ),
        (lambda t: without("first_stage_model.", t["sd1"]), "but no first_stage_model."),
        (lambda t: without("cond_stage_model.", t["sd1"]), "is a U-Net without a text encoder"),
        (lambda t: without("conditioner.embedders.1.", t["sdxl"]), "without a text encoder"),
        (lambda t: only("first_stage_model.", t["sd1"]), "is an autoencoder (VAE) alone"),
        (
            lambda t: {
                k.replace("embedders.1.", "embedders.0."): v
                for k, v in without("conditioner.embedders.0.", t["sdxl"]).items()
            },
            "is the refiner of Stable Diffusion XL",
        ),
        (
            lambda t: without("model.diffusion_model.out.2", t["sd1"]),
            "looks like Stable Diffusion 1.x, but lacks tensors",
        ),
        (lambda _: {"lora_unet_mid_block_attentions_0.lora_down.weight": ONE}, "is a LoRA"),
        (lambda _: {"unet.mid_block.to_k.lora_A.weight": ONE}, "is a LoRA"),
        (lambda _: {"model.diffusion_model.joint_blocks.0.x": ONE}, "is Stable Diffusion 3"),
        (lambda _: {"double_blocks.0.img_attn.qkv.weight": ONE}, "is Flux"),
        (lambda _: {"model.diffusion_model.double_blocks.0.x": ONE}, "is Flux"),
        (lambda _: {"control_model.input_blocks.0.0.weight": ONE}, "is a ControlNet"),
        (lambda _: {"controlnet_cond_embedding.conv_in.weight": ONE}, "is a ControlNet"),
        (lambda _: {"embeddings": ONE, "boundaries": ONE}, "is a concept"),
        (lambda _: {"<cat>": ONE}, "is an embedding"),
        (lambda _: {"clip_l": ONE, "clip_g": ONE}, "is an embedding"),
        (lambda _: {f"layer{i}.weight": ONE for i in range(4)}, "is not a known kind of model"),
    ],
)
def test_other_models_are_recognised(
    tmp_path: Path,
    files: dict[Family, dict[str, Any]],
    change: Callable[[dict[Family, dict[str, Any]]], dict[str, Any]],
    told: str,
) -> None:
    message = error_of(write(tmp_path / "a.safetensors", change(files)))
    assert told in message
