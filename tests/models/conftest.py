# SPDX-License-Identifier: Apache-2.0
"""A model to damage."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model's folder, for this test alone."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
