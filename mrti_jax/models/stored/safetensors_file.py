# SPDX-License-Identifier: Apache-2.0
"""The table of contents of a safetensors file: 8 bytes of length, a JSON header, the numbers."""

import json
from typing import Any

from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.files import reporting
from mrti_jax.models.stored.tensor import DTYPES, StoredTensor, contiguous_strides

# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000


def read_safetensors(path: epath.Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file by name, unread, and the file's metadata.

    Raises:
        UserError: the file is missing, truncated or damaged.
    """
    with reporting(f"{path} can't be read", path), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= _MAX_HEADER_BYTES else b""
        end = file.seek(0, 2)
    if 8 <= end < 8 + length <= _MAX_HEADER_BYTES:
        raise _truncated(path, end, 8 + length)
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__", {})
        tensors = {name: _tensor(path, 8 + length, entry) for name, entry in entries.items()}
        if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
            raise ValueError("no metadata")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is not a safetensors file, or is damaged") from None
    needed = max((tensor.offset + tensor.span for tensor in tensors.values()), default=0)
    if needed > end:
        raise _truncated(path, end, needed)
    return tensors, metadata


def _tensor(path: epath.Path, start: int, entry: dict[str, Any]) -> StoredTensor:
    shape, (first, last) = entry["shape"], entry["data_offsets"]
    # Not `isinstance`: JSON's true and false are not numbers.
    numbers = all(type(n) is int and n >= 0 for n in (*shape, first, last))
    if not isinstance(shape, list) or not numbers:
        raise ValueError("no such place")
    dtype = entry["dtype"]
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise UserError(f"{path} holds tensors of dtype {dtype[:20]}, which can't be read")
    strides = contiguous_strides(tuple(shape))
    tensor = StoredTensor(path, start + first, DTYPES[dtype], tuple(shape), strides)
    if tensor.span != last - first:
        raise ValueError("no such tensor")
    return tensor


def _truncated(path: epath.Path, end: int, needed: int) -> UserError:
    return UserError(
        f"{path} is truncated: it has {end} of {needed} bytes; download or copy it again"
    )
