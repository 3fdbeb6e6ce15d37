# SPDX-License-Identifier: Apache-2.0
"""What a run computes on: the machine's accelerator or nothing, the mesh, and the line about it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from mrti_jax.errors import UserError
from mrti_jax.parallel.accelerator import check_accelerator
from mrti_jax.parallel.banner import describe
from mrti_jax.parallel.mesh import (
    choose_fsdp,
    fetch,
    fitting_mesh,
    make_mesh,
    place,
    weight_sharded,
)


def machine(root: Path, kind: str) -> Path:
    """The files by which a machine shows what it has."""
    (root / "dev").mkdir(parents=True)
    pci = root / "sys/bus/pci/devices/0000:00:04.0"
    pci.mkdir(parents=True)
    ids = {"v5e": ("0x1ae0", "0x0063"), "google network card": ("0x1ae0", "0x0042")}
    vendor, device = ids.get(kind, ("0x8086", "0x0063"))
    (pci / "vendor").write_text(f"{vendor}\n")
    (pci / "device").write_text(f"{device}\n")
    if kind == "nvidia":
        (root / "dev/nvidia0").touch()
    if kind == "nvidia in WSL":
        (root / "usr/lib/wsl/lib").mkdir(parents=True)
        (root / "usr/lib/wsl/lib/nvidia-smi").touch()
    return root


@pytest.fixture(params=[None, "cuda,cpu"])
def cpu_not_chosen(request: pytest.FixtureRequest) -> Iterator[None]:
    chosen = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", request.param)
    yield
    jax.config.update("jax_platforms", chosen)


def test_the_platform_that_was_chosen_holds(tmp_path: Path):
    check_accelerator(machine(tmp_path, "nvidia"))  # all tests run on the CPU, by choice


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("v5e", r"has a TPU, but JAX would run on the CPU.*'\.\[tpu\]'.*JAX_PLATFORMS=cpu"),
        ("nvidia", r"has a NVIDIA GPU, but JAX would run on the CPU.*cuda.*'\.\[cuda13\]'"),
        ("nvidia in WSL", r"has a NVIDIA GPU, but JAX would run on the CPU"),
        ("google network card", None),
        ("plain", None),
    ],
)
def test_an_accelerator_that_jax_would_leave_unused_is_an_error(
    kind: str, message: str | None, tmp_path: Path, cpu_not_chosen: None
):
    root = machine(tmp_path, kind)
    if message is None:
        check_accelerator(root)
    else:
        with pytest.raises(UserError, match=message):
            check_accelerator(root)


def test_a_platform_that_jax_can_not_use_is_an_error(monkeypatch: pytest.MonkeyPatch):
    missing = RuntimeError("Unable to initialize backend 'tpu'")
    monkeypatch.setattr(jax, "default_backend", mock.Mock(side_effect=missing))
    with pytest.raises(UserError, match=r"Unable to initialize backend 'tpu'.*'\.\[tpu\]'"):
        check_accelerator()


def test_the_mesh_and_where_weights_lie_on_it():
    mesh = make_mesh(fsdp=2)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2}
    shapes = {(3, 3, 64, 64): (3, 3, 64, 32), (49408, 768): (24704, 768), (64,): (64,)}
    for shape, part in shapes.items():
        sharding = weight_sharded(mesh, shape)
        assert sharding.shard_shape(shape) == part
        assert weight_sharded(make_mesh(), shape).is_fully_replicated
    weights = np.random.default_rng(0).standard_normal((128, 256), np.float32)
    on_devices = place(weights, weight_sharded(mesh, weights.shape))
    assert on_devices.addressable_shards[0].data.shape == (128, 128)
    np.testing.assert_array_equal(fetch(on_devices), weights)
    with pytest.raises(UserError, match="fsdp is 3, but must divide the number of devices"):
        make_mesh(fsdp=3)


def gpu(number: int, host: int) -> Any:
    """As JAX shows those of several hosts."""
    names = {"platform": "gpu", "device_kind": "H100"}
    return mock.Mock(spec=jax.Device, id=number, slice_index=host, process_index=number, **names)


def test_between_slices_the_batch_is_split_and_weights_only_where_one_is_too_small():
    devices = [gpu(number, number // 4) for number in range(8)]
    for fsdp, rows in {
        1: [[i] for i in range(8)],
        2: [[0, 1], [2, 3], [4, 5], [6, 7]],
        8: [[0, 1, 2, 3, 4, 5, 6, 7]],
    }.items():
        mesh = make_mesh(devices, fsdp=fsdp)
        assert dict(mesh.shape) == {"data": 8 // fsdp, "fsdp": fsdp}
        assert [[device.id for device in row] for row in mesh.devices] == rows


@pytest.mark.parametrize(("gib", "fsdp"), [(2, 1), (13, 2)])
def test_the_mesh_is_made_for_the_weights(gib: int, fsdp: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mrti_jax.parallel.mesh.memory_limit", lambda device: 16 * 2**30)
    assert dict(fitting_mesh(gib * 2**30).shape) == {"data": 2 // fsdp, "fsdp": fsdp}


def test_as_few_devices_as_have_the_memory_hold_the_weights():
    gib = 2**30
    v5e = 16 * gib  # of which 9.6 GiB are for weights
    assert choose_fsdp(2 * gib, 8, v5e) == 1  # SD 1.5 in bfloat16
    assert choose_fsdp(13 * gib, 8, v5e) == 2  # XL in float32
    assert choose_fsdp(20 * gib, 6, v5e) == 3
    assert choose_fsdp(100 * gib, 8, None) == 1
    with pytest.raises(UserError, match=r"weights take 13\.0 GiB, more than 1 devices"):
        choose_fsdp(13 * gib, 1, v5e)


def test_the_line_about_it():
    mesh = make_mesh()
    line = describe("mini", mesh, "bfloat16", at_a_time=8, each=4)
    assert line == (
        "model: mini | devices: 2 x cpu (cpu) | mesh: data 2, fsdp 1 | weights: bfloat16 | "
        "batch: 8, 4 per device"
    )
    line = describe("mini", mesh, "bfloat16", at_a_time=3, each=2)
    assert line.endswith("batch: 3, up to 2 per device")
