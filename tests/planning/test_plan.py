# SPDX-License-Identifier: Apache-2.0
"""Counting a program's arithmetic, and compiling a tiny model for a TPU that isn't there."""

import dataclasses
import importlib.util
import re
from typing import Literal

import jax
import jax.numpy as jnp
import pytest
from tiny import TEXT_WIDTH, text_config, unet_config, vae_config

from mrti_jax import plan
from mrti_jax.errors import UserError
from mrti_jax.models.stored.families import SCHEDULE
from mrti_jax.models.unet import UNetConfig
from mrti_jax.parallel.mesh import WEIGHT_SHARE, replicated
from mrti_jax.planning import plan as planning
from mrti_jax.planning.flops import count_flops
from mrti_jax.planning.plan import Target, plan_sampling, plan_training
from mrti_jax.planning.presets import Preset
from mrti_jax.planning.tpu_compiler import DoesNotFit, compile_cost, on_mesh, tpu_mesh
from mrti_jax.training.config import ConceptConfig, Config, TrainConfig

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)

# Of 10 buckets the gradient in the vectors, the loss and the number of examples, 4 bytes each.
CROSSES = 4 * 10 * (ConceptConfig.num_vectors * TEXT_WIDTH + 2)


def test_flops_of_products_convolutions_and_loops():
    def program(x: jax.Array, kernel: jax.Array) -> jax.Array:
        def strided(x: jax.Array) -> jax.Array:
            dimensions = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, kernel, (2, 2), "SAME", dimension_numbers=dimensions
            )

        def body(total: jax.Array, _: None) -> tuple[jax.Array, None]:
            return total @ total, None

        gradient = jax.vjp(strided, x)[1](jnp.ones((2, 4, 4, 5)))[0]
        square, _ = jax.lax.scan(body, jnp.ones((6, 6)), None, length=7)
        return gradient.sum() + square.sum()

    shapes = (jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5)))
    convolution = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    # Backward as much as forward: what the dilation puts in between is zero.
    expected = 2 * convolution + 7 * 2 * 6**3
    assert count_flops(jax.jit(program).trace(*shapes).jaxpr) == expected


@needs_compiler
def test_a_product_moves_each_of_its_arrays_once():
    shapes = [(512, 4096), (4096, 4096)]
    arrays = tuple(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes)
    everywhere = replicated(tpu_mesh("v5e", 1))
    cost = compile_cost(jax.jit(jnp.matmul).lower(*on_mesh(arrays, everywhere)))
    assert cost.traffic == 2 * (512 * 4096 + 4096 * 4096 + 512 * 4096) < cost.bytes_accessed


def preset(unet: UNetConfig) -> Preset:
    scheduler = {**SCHEDULE, "_class_name": "DDIMScheduler"}
    return Preset((text_config("sd1", 100),), unet, vae_config(), scheduler)


@needs_compiler
@pytest.mark.parametrize(("program", "chips"), [("train", 4), ("sample", 1)])
def test_a_tiny_model_compiles_for_tpus(
    program: Literal["train", "sample"], chips: int, monkeypatch: pytest.MonkeyPatch
):
    """Latents of 16 x 16, so that attention is the Pallas kernel, over 4 chips in a shard_map."""
    tiny = preset(unet_config("sd1"))
    monkeypatch.setattr(planning, "find_preset", {"tiny": tiny}.__getitem__)
    target = Target("tiny", "v5e", chips, "bfloat16", "auto")
    if program == "train":
        cost = plan_training(target, Config(train=TrainConfig(batch_size=4, remat="none")), 32)
    else:
        cost = plan_sampling(target, 32, 4, 3)
    weights = 2 * sum(
        leaf.size
        for part in ("unet", "text_encoder" if program == "train" else "vae")
        for leaf in jax.tree.leaves(getattr(planning.models(target)[0], part).params)
    )
    assert weights < cost.arguments < 2 * weights + 2**20
    assert 0 < cost.flops < 1e10 and cost.seconds > 0
    assert cost.bytes_accessed > cost.traffic > 0.9 * weights
    assert cost.bytes_between == (CROSSES if program == "train" else 0)


@needs_compiler
def test_weights_too_large_for_a_chip_are_shared(monkeypatch: pytest.MonkeyPatch):
    """As in a run, by the same rule."""
    monkeypatch.setattr(planning, "find_preset", {"tiny": preset(unet_config("sd1"))}.__getitem__)
    target = Target("tiny", "v5e", 4, "bfloat16", "auto")
    config = Config(train=TrainConfig(batch_size=4, remat="none"))
    whole = plan_training(target, config, 32)
    assert whole.fsdp == 1
    weights = 2 * sum(leaf.size for leaf in jax.tree.leaves(planning.models(target)[0].params))
    small = dataclasses.replace(planning.CHIPS["v5e"], memory=weights / 2 / WEIGHT_SHARE)
    monkeypatch.setattr(planning, "CHIPS", {"v5e": small})
    shared = plan_training(target, config, 32)
    assert shared.fsdp == 2
    halved = whole.arguments - shared.arguments  # the small weights stay whole
    assert weights / 8 < halved < weights / 2
    assert shared.bytes_between > halved


@needs_compiler
def test_of_chips_that_idle_the_others_cost_an_example_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(planning, "find_preset", {"tiny": preset(unet_config("sd1"))}.__getitem__)
    costs = []
    for batch_size in (1, 8):
        flags = ["--model", "tiny", "--batch-size", str(batch_size), "--chips", "8"]
        assert plan.main([*flags, "--chip", "v5e", "--size", "32"]) == 0
        told = capsys.readouterr().out
        costs.append(re.search(r"arithmetic, TFLOP .*", told)[0])  # type: ignore[index]
        assert ("a batch of 8 would take as long: with 1, some chips idle" in told) == (
            batch_size == 1
        )
    assert costs[0] == costs[1]


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("widths", [(32, 64), (64, 128)])
def test_over_256_chips_as_much_crosses_whatever_the_model(
    widths: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    model = preset(dataclasses.replace(unet_config("sd1"), block_out_channels=widths))
    monkeypatch.setattr(planning, "find_preset", {"tiny": model}.__getitem__)
    config = Config(train=TrainConfig(batch_size=256, remat="none"))
    cost = plan_training(Target("tiny", "v5e", 256, "bfloat16", "auto"), config, 32)
    assert cost.bytes_between == CROSSES


@pytest.mark.parametrize(
    ("chip", "num_chips", "told"),
    [("v9", 1, "unknown chip 'v9'"), ("v5e", 3, "no v5e slice of 3 chips")],
)
def test_chips_that_do_not_exist(chip: str, num_chips: int, told: str):
    with pytest.raises(UserError, match=told):
        tpu_mesh(chip, num_chips)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--batch-size 0", "train.batch_size is 0, but must be at least 1"),
        ("--batch-size 8 --accumulation 3", "does not divide into 3 equal parts"),
        ("--steps 20", "--steps does not apply to --program train"),
        ("--program sample --remat none", "--remat does not apply to --program sample"),
        ("--program sample --steps 0", "steps is 0, but must be at least 1"),
        ("--program sample --chips 0", "chips is 0, but must be at least 1"),
        ("--program sample --batch-size 6 --chips 4", "6 pictures do not divide over 4.*use 8"),
    ],
)
def test_plans_that_no_run_could_follow(flags: str, told: str, capsys: pytest.CaptureFixture[str]):
    assert plan.main(flags.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(told, line)


def test_what_does_not_fit_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def too_large(*_: object) -> None:
        raise DoesNotFit(20 * 2**30)

    monkeypatch.setattr(planning, "plan_sampling", too_large)
    assert plan.main(["--program", "sample", "--chip", "v5e"]) == 2
    told = "does not fit: needs 20.00 GiB on each chip, which has 15.75 GiB for it; use a smaller"
    assert told in capsys.readouterr().err
