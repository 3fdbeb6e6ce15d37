# SPDX-License-Identifier: Apache-2.0
"""Where the files of all readers are, and how much memory they may take."""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = 2 << 30  # bytes that the process may grow by, whatever the files claim


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    before = peak_memory()
    yield
    assert peak_memory() - before < MEMORY


def peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")
