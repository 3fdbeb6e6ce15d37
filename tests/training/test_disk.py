# SPDX-License-Identifier: Apache-2.0
"""A full disk and a read-only one: one clear line, and nothing that was saved is damaged.

On a small file system in memory, which only root may mount.
"""

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mrti_jax.concept import Concept
from mrti_jax.errors import UserError
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training import learn, load_concept

WORDS = {"name": "jane", "initializer": "star"}


def mount(*options: str) -> bool:
    return subprocess.run(["mount", *options], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name != "posix" or not mount("-t", "tmpfs", "-o", "size=1m", "none", str(disk)):
        pytest.skip("a file system can't be mounted here: it needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:can't write checkpoints",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",  # of Orbax's own threads
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_a_full_and_a_read_only_disk(
    tiny_sd: StableDiffusion,
    pictures: list[np.ndarray],
    make_config: Callable,
    small_disk: Path,
    tmp_path: Path,
):
    config = make_config(
        concept={"num_buckets": 2}, train={"steps": 40, "checkpoint_every": 1, "keep": 40}
    )
    out = small_disk / "jane"
    with pytest.raises(UserError, match=r"can't write .*No space left") as caught:
        learn(tiny_sd, pictures, **WORDS, out=out, config=config)
    assert "\n" not in str(caught.value)
    saved = load_concept(out)
    assert 0 < int(saved.metadata["steps"]) < 40
    assert int(Concept.load(out).metadata["steps"]) > 0

    assert mount("-o", "remount,ro", str(small_disk))
    before = content(out)
    with pytest.raises(UserError, match=r"can't write to the folder .*Read-only"):
        learn(tiny_sd, pictures, **WORDS, out=out, config=config)
    assert content(out) == before

    assert mount("-o", "remount,rw,size=64m", str(small_disk))
    resumed = learn(tiny_sd, pictures, **WORDS, out=out, config=config)
    whole = learn(tiny_sd, pictures, **WORDS, config=config)
    np.testing.assert_array_equal(resumed.embeddings, whole.embeddings)
    gc.collect()  # what Orbax's failed writes left is warned of here, not in a later test
