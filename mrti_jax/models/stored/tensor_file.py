# SPDX-License-Identifier: Apache-2.0
"""A file of tensors, read as what it is, whatever its name says."""

from typing import Any

from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.files import is_regular, reporting
from mrti_jax.models.stored.safetensors_file import read_safetensors
from mrti_jax.models.stored.tensor import StoredTensor
from mrti_jax.models.stored.torch_file import read_torch_file

_ZIP = b"PK\x03\x04"
_GIT_LFS = b"version https://git-lfs"


def read_tensor_file(path: epath.Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of a safetensors or PyTorch file by name, unread, and what else the file says
    (metadata, numbers from training).

    Raises:
        UserError: the file is missing, damaged or not to be trusted.
    """
    with reporting(f"{path} can't be read", path):
        if path.exists() and not path.is_dir() and not is_regular(path):
            raise UserError(f"{path} is a pipe or a device: give a file, which can be read twice")
        with path.open("rb") as file:
            head = file.read(len(_GIT_LFS))
    if head == _GIT_LFS:
        raise UserError(
            f"{path} is a Git LFS pointer, not the file: fetch it with `git lfs pull` in its "
            "repository"
        )
    # The JSON header of safetensors begins after its length, 8 bytes.
    is_safetensors = head[8:9] == b"{" or path.suffix.lower() == ".safetensors"
    if is_safetensors and not head.startswith(_ZIP):
        return read_safetensors(path)
    return read_torch_file(path)
