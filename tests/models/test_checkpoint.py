# SPDX-License-Identifier: Apache-2.0
"""Reading weights: what is wrong with a folder is named, what is right comes through exactly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding
from safetensors.numpy import load_file, save_file

from mrti_jax.errors import UserError
from mrti_jax.models import checkpoint
from mrti_jax.models.checkpoint import save_module
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import weight_sharded

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
WEIGHT = "mid_block.resnets.0.conv1.weight"


@pytest.mark.slow
def test_the_order_of_filters_in_memory_changes_nothing(
    tiny_folder: Path, tiny_sd: StableDiffusion, monkeypatch: pytest.MonkeyPatch
):
    """Outputs first, as on GPUs."""
    outputs_first = Layout(major_to_minor=(3, 0, 1, 2))

    def ordered(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding | Format:
        sharding = weight_sharded(mesh, shape)
        return Format(outputs_first, sharding) if len(shape) == 4 else sharding

    monkeypatch.setattr(checkpoint, "weight_format", ordered)
    turned = StableDiffusion.load(tiny_folder)
    layout = turned.unet.params["conv_in"]["kernel"].format.layout
    assert layout.major_to_minor == outputs_first.major_to_minor
    latents = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    context = jax.random.normal(jax.random.key(1), (2, 77, tiny_sd.unet.config.cross_attention_dim))
    ours, plain = (
        jax.jit(lambda params: tiny_sd.unet.bind(params)(latents, jnp.arange(2), context))(params)
        for params in (turned.unet.params, tiny_sd.unet.params)
    )
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-6)


def change(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def load_error(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        StableDiffusion.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_tensor_is_named(copy: Path) -> None:
    change(copy / UNET, lambda tensors: tensors.pop(WEIGHT))
    assert f"'{WEIGHT}' is missing" in load_error(copy)


def test_left_over_tensor_is_named(copy: Path) -> None:
    change(copy / UNET, lambda tensors: tensors.update(extra=np.zeros(3, np.float32)))
    assert "1 tensors are not part of this module: extra" in load_error(copy)


def test_misshaped_tensor_is_named(copy: Path) -> None:
    change(copy / UNET, lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT][:, :5].copy()}))
    message = load_error(copy)
    assert WEIGHT in message
    assert "[64, 5, 3, 3]" in message and "[64, 64, 3, 3]" in message


def test_quantized_tensor_is_named(copy: Path) -> None:
    change(copy / UNET, lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].astype(np.int8)}))
    assert f"'{WEIGHT}' has dtype int8: quantized weights can't be read" in load_error(copy)


def test_truncated_file_is_named(copy: Path) -> None:
    content = (copy / UNET).read_bytes()
    (copy / UNET).write_bytes(content[: len(content) // 2])
    assert UNET in load_error(copy)


def test_missing_weights_are_named(copy: Path) -> None:
    (copy / UNET).unlink()
    assert "holds no weights" in load_error(copy)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    assert "does not exist" in load_error(tmp_path / "nowhere")


def test_an_index_is_not_a_model(copy: Path) -> None:
    assert f"give its folder, '{copy}'" in load_error(copy / "model_index.json")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("unet", "only_cross_attention", True),
        ("unet", "down_block_types", ["AttnDownBlock2D", "DownBlock2D"]),
        ("vae", "act_fn", "relu"),
        ("text_encoder", "hidden_act", "tanh"),
    ],
)
def test_unsupported_config_value_is_named(copy: Path, part: str, key: str, value: object) -> None:
    path = copy / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    message = load_error(copy)
    assert f"{part}/config.json" in message and key in message


def test_older_names_of_the_text_encoder(copy: Path, tiny_sd: StableDiffusion) -> None:
    tensors = {f"text_model.{name}": value for name, value in load_file(copy / TEXT).items()}
    tensors["text_model.embeddings.position_ids"] = np.arange(77)[None]
    save_file(tensors, copy / TEXT)
    loaded = StableDiffusion.load(copy).text_models[0].params
    jax.tree.map(np.testing.assert_array_equal, loaded, tiny_sd.text_models[0].params)


def test_weights_come_in_the_wanted_dtype(tiny_folder: Path, tiny_sd: StableDiffusion) -> None:
    loaded = StableDiffusion.load(tiny_folder, dtype=jnp.bfloat16)
    assert loaded.dtype == jnp.bfloat16
    jax.tree.map(
        lambda low, full: np.testing.assert_array_equal(low, full.astype(jnp.bfloat16)),
        loaded.params,
        tiny_sd.params,
    )


def test_a_vae_that_overflows_stays_float32(tiny_xl_folder: Path) -> None:
    sd = StableDiffusion.load(tiny_xl_folder, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(sd.vae.params)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(sd.unet.params)} == {jnp.dtype(jnp.bfloat16)}


def test_only_the_vae_of_xl_is_cast_up(copy: Path) -> None:
    """diffusers writes its default, true, to others' configs as well, and ignores it there."""
    path = copy / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"force_upcast": True}))
    sd = StableDiffusion.load(copy, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(sd.vae.params)} == {jnp.dtype(jnp.bfloat16)}


def test_parts_that_do_not_belong_together(tiny_xl_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_xl_folder, tmp_path / "copy"))
    for part in ("text_encoder_2", "tokenizer_2"):
        shutil.rmtree(folder / part)
    assert "takes text states of width 56, but its text encoder returns 24" in load_error(folder)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_round_trip_is_exact(copy: Path, dtype: jax.typing.DTypeLike) -> None:
    before = StableDiffusion.load(copy, dtype=dtype)
    for path, params in [
        (UNET, before.unet.params),
        (TEXT, before.text_models[0].params),
        ("vae/diffusion_pytorch_model.safetensors", before.vae.params),
    ]:
        save_module(params, epath.Path(copy / path), dtype)
    after = StableDiffusion.load(copy, dtype=dtype)
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)


def test_weights_may_be_read_by_whom_other_files_may(tiny_folder: Path, tmp_path: Path) -> None:
    weights, plain = tmp_path / "weights.safetensors", tmp_path / "plain"
    save_module(StableDiffusion.load(tiny_folder).vae.params, epath.Path(weights), jnp.float32)
    plain.touch()
    assert weights.stat().st_mode == plain.stat().st_mode
