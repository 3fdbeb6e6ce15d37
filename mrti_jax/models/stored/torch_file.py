# SPDX-License-Identifier: Apache-2.0
"""The tensors of a PyTorch file (`.bin`, `.ckpt`, `.pt`), without PyTorch and without its risk.

Since PyTorch 1.6 such a file is an uncompressed zip: a pickle that describes the tensors, and one
entry with the numbers of each storage. A pickle is a program that may call any function; here it
finds stand-ins for the few that weights need, and nothing else.
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.files import reason
from mrti_jax.models.stored.tensor import DTYPES, StoredTensor

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
# What training scripts leave in a checkpoint beside the weights.
_IGNORED = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("pytorch_lightning.callbacks", "ModelCheckpoint"),
    ("torch.nn.modules.container", "ParameterDict"),
    ("torch", "device"),
    ("torch", "float16"),
    ("torch", "float32"),
    ("torch", "bfloat16"),
}
_LOCAL_HEADER_BYTES = 30
# Flags of a zip's entry: encrypted, a patch, strongly encrypted.
_ENCODED = 0x61


class _Refused(Exception):
    """The pickle asks for something that no weights need."""


class _Dict(dict):
    """Stands in for OrderedDict, whose pickles carry attributes that are of no use here."""

    def __setstate__(self, state: object) -> None:
        pass


class _Nothing:
    """Stands in for what is read over."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_torch_file(path: epath.Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of a file's state dict by name, unread, and what else is beside it: numbers and
    strings, and None for what is neither.

    A state dict under the key `state_dict` counts as the file's own.

    Raises:
        UserError: the file is missing, damaged, of an older format, or asks to run code.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(_not_a_zip(path, file))
            content = _unpickle(path, file)
    except _Refused as refused:
        raise UserError(
            f"{path} was not read, and nothing in it was run: its pickle asks for {refused}, which "
            "no weights need; take the model from a source that you trust, as safetensors"
        ) from None
    except UserError:
        raise
    except (OSError, ImportError) as error:
        raise UserError(f"{path} can't be read: {reason(error)}") from None
    except Exception as error:  # zipfile raises anything at a damaged directory
        raise UserError(f"{path} is damaged: {reason(error)}; download or copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict, but {type(content).__name__}")
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no state dict under 'state_dict'")
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, StoredTensor)
    }
    others = {
        str(key): value if isinstance(value, int | float | str) else None
        for key, value in content.items()
        if not isinstance(value, StoredTensor)
    }
    return tensors, others


def _unpickle(path: epath.Path, file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        names = [name for name in entries if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise UserError(f"{path} is a zip file, but not one of PyTorch: it holds no data.pkl")
        root = names[0].removesuffix("data.pkl")
        if any(
            info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCODED
            for info in entries.values()
        ):
            raise UserError(f"{path} is compressed or encrypted, as PyTorch's files never are")
        if root + "byteorder" in entries and archive.read(root + "byteorder") == b"big":
            raise UserError(f"{path} was written on a big-endian machine: convert it there")
        with archive.open(names[0]) as pickled:
            unpickler = _Unpickler(pickled, path, lambda key: _place(file, entries[root + key]))
            try:
                return unpickler.load()
            except (UserError, _Refused):
                raise
            except Exception as error:  # a damaged pickle raises anything
                kind = type(error).__name__
                raise UserError(f"{path} is damaged: its pickle ends in {kind}") from None


class _Unpickler(pickle.Unpickler):
    """Runs a pickle in which every name is one of the stand-ins below."""

    def __init__(
        self,
        file: Any,
        path: epath.Path,
        place: Callable[[str], tuple[int, int]],
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._path = path
        self._place = place
        self._known: Mapping[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _Dict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
            **{("torch", name): dtype for name, dtype in _STORAGES.items()},
            **dict.fromkeys(_IGNORED, _Nothing),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise _Refused(f"{module}.{name}"[:100])
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> tuple[np.dtype, int, int]:
        """The dtype of a storage, and its place in the file (see `_place`)."""
        _, dtype, key, _, _ = pid
        return DTYPES[dtype], *self._place(f"data/{key}")

    def _tensor(
        self,
        storage: tuple[np.dtype, int, int],
        first: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *rest: object,
    ) -> StoredTensor:
        dtype, start, end = storage
        shape, strides = tuple(map(int, shape)), tuple(map(int, strides))
        if len(shape) != len(strides) or min((first, *shape, *strides)) < 0:
            raise ValueError("no such tensor")
        offset = start + first * dtype.itemsize
        tensor = StoredTensor(self._path, offset, dtype, shape, strides)
        if offset + tensor.span > end:
            raise UserError(f"{self._path} is damaged: a tensor is larger than its storage")
        return tensor


def _place(file: BinaryIO, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """First byte and end of an entry's content in the zip file."""
    # The local header's name and extra field may be longer than the directory says.
    position = file.tell()
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    file.seek(position)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = entry.header_offset + _LOCAL_HEADER_BYTES + lengths
    return start, start + entry.file_size


def _not_a_zip(path: epath.Path, file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(262)
    if head[:4] == b"PK\x03\x04":
        return f"{path} is truncated: download or copy it again"
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return (
            f"{path} is in the format of PyTorch before 1.6, which can't be read without running "
            "it: where PyTorch is, convert it by "
            '`torch.save(torch.load(OLD, weights_only=True, map_location="cpu"), NEW)`'
        )
    return f"{path} is not a PyTorch file, or damaged"
