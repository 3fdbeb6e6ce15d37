# SPDX-License-Identifier: Apache-2.0
"""Files such as PyTorch writes, without PyTorch; and pickles that would run code."""

import zipfile
from collections.abc import Callable
from pathlib import Path


class Malicious:
    """Its pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def write_torch_zip(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", "3\n")
    return path
