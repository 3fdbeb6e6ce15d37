# SPDX-License-Identifier: Apache-2.0
"""The tensors of a PyTorch file (`.bin`, `.ckpt`, `.pt`), without PyTorch and without its risk.

Since PyTorch 1.6 such a file is an uncompressed zip: a pickle that describes the tensors, and one
entry with the numbers of each storage. A pickle is a program that may call any function; here it
finds stand-ins for the few that weights need, and nothing else.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import numpy as np
from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.files import failures, reason
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
# What training scripts leave in a checkpoint besides the weights.
_IGNORED = {
    (module, name)
    for modules, names in (
        (
            "builtins __builtin__",
            "bool bytearray complex dict float frozenset int list long set str tuple unicode",
        ),
        ("_codecs", "encode"),
        ("collections", "Counter defaultdict"),
        ("numpy", "dtype ndarray"),
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
        (
            "pytorch_lightning.callbacks pytorch_lightning.callbacks.model_checkpoint",
            "ModelCheckpoint",
        ),
        ("torch.nn.modules.container", "ParameterDict"),
        ("torch.serialization", "_get_layout"),
        (
            "torch",
            "Size device bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 "
            "float32 float64 complex32 complex64 complex128 float8_e4m3fn float8_e4m3fnuz "
            "float8_e5m2 float8_e5m2fnuz float8_e8m0fnu qint8 qint32 quint8",
        ),
    )
    for module in modules.split()
    for name in names.split()
}
_LOCAL_HEADER_BYTES = 30
# Flags of a zip's entry: encrypted, a patch, strongly encrypted.
_ENCODED = 0x61


class _Refused(Exception):
    """The pickle asks for something that no weights need."""


class _Dict(dict):
    """Stands in for dict and OrderedDict, and keeps what has a string for a key: other keys can be
    chosen so that each is compared with all before it."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__()
        for key, value in items:
            self[key] = value

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(key, str):
            super().__setitem__(key, value)

    @classmethod
    def of(cls, stack: Sequence[object]) -> "_Dict":
        """The dict of keys and values that follow each other."""
        return cls(zip(stack[::2], stack[1::2], strict=True))


class _Memo(dict):
    """What a pickle refers back to by numbers, which as keys have the trouble described above."""

    def __setitem__(self, key: int, value: object) -> None:
        if key >= 2**32:
            raise ValueError("no such place")
        super().__setitem__(key, value)


class _Nothing:
    """Stands in for what is ignored."""

    def __init__(self, *args: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def add(self, item: object) -> None:
        pass

    append = extend = add


class _Tuple(tuple):
    """Hashed by identity: a few bytes can nest tuples so that hashing each element takes years."""

    __hash__ = object.__hash__


@dataclass(frozen=True)
class _Storage:
    """The numbers that tensors share: from byte `start` of the file up to, not including, `end`."""

    dtype: np.dtype
    start: int
    end: int


def read_torch_file(path: epath.Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of a file's state dict by name, unread, and what is stored next to it: numbers
    and strings, and None for anything else.

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
            "no weights need; get the model from a source that you trust, as safetensors"
        ) from None
    except UserError:
        raise
    except failures(path) as error:
        raise UserError(f"{path} can't be read: {reason(error)}") from None
    except Exception as error:  # zipfile raises anything for a damaged directory
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
        key: value if isinstance(value, int | float | str) else None
        for key, value in content.items()
        if isinstance(key, str) and not isinstance(value, StoredTensor)
    }
    return tensors, others


def _unpickle(path: epath.Path, file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        names = [name for name in entries if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise UserError(f"{path} is a zip file, but not PyTorch's: it holds no data.pkl")
        root = names[0].removesuffix("data.pkl")
        if any(
            info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCODED
            for info in entries.values()
        ):
            raise UserError(f"{path} is compressed or encrypted, as PyTorch's files never are")
        if root + "byteorder" in entries and archive.read(root + "byteorder") == b"big":
            raise UserError(f"{path} was written on a big-endian machine: convert it there")
        pickled = io.BytesIO(archive.read(names[0]))
        unpickler = _Unpickler(pickled, path, lambda key: _place(path, file, entries[root + key]))
        try:
            return unpickler.load()
        except (UserError, _Refused):
            raise
        except Exception as error:  # a damaged pickle raises anything
            kind = type(error).__name__
            raise UserError(f"{path} is damaged: its pickle ends in {kind}") from None


def _replaced(load: Callable[[Any], None], kind: Callable[[Any], Any]) -> Callable[[Any], None]:
    """An opcode whose result, on top of the stack, becomes a `kind` of it."""

    def run(unpickler: Any) -> None:
        load(unpickler)
        unpickler.stack[-1] = kind(unpickler.stack[-1])

    return run


# The one in Python: that in C makes its memo as long as a file of a few bytes asks for.
class _Unpickler(pickle._Unpickler):
    """Runs a pickle in which every name is one of the stand-ins below."""

    dispatch: ClassVar = {
        **pickle._Unpickler.dispatch,
        # Drops the attributes, which nothing here needs: what has been checked stays as it is.
        pickle.BUILD[0]: pickle._Unpickler.dispatch[pickle.POP[0]],
        # Reads what is there, without first allocating all that is claimed.
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
        **{
            code[0]: _replaced(pickle._Unpickler.dispatch[code[0]], _Tuple)
            for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
        },
        pickle.EMPTY_DICT[0]: _replaced(pickle._Unpickler.dispatch[pickle.EMPTY_DICT[0]], _Dict),
        pickle.DICT[0]: _replaced(pickle._Unpickler.dispatch[pickle.LIST[0]], _Dict.of),
        # Sets would hash and compare what is in them.
        pickle.EMPTY_SET[0]: _replaced(pickle._Unpickler.dispatch[pickle.EMPTY_SET[0]], _Nothing),
        pickle.FROZENSET[0]: _replaced(pickle._Unpickler.dispatch[pickle.LIST[0]], _Nothing),
    }

    def __init__(
        self,
        file: Any,
        path: epath.Path,
        place: Callable[[str], tuple[int, int]],
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.memo = _Memo()
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
            raise _Refused(repr(f"{module}.{name}"[:100])[1:-1])
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, _ = pid
        if not isinstance(key, str):
            raise TypeError("no such storage")
        return _Storage(DTYPES[dtype], *self._place(f"data/{key}"))

    def _tensor(
        self,
        storage: _Storage,
        first: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *rest: object,
    ) -> StoredTensor:
        numbers = (first, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(type(n) is int for n in numbers):
            raise TypeError("no such tensor")
        if len(shape) != len(strides) or min(numbers) < 0:
            raise ValueError("no such tensor")
        offset = storage.start + first * storage.dtype.itemsize
        tensor = StoredTensor(self._path, offset, storage.dtype, tuple(shape), tuple(strides))
        # Strides may repeat numbers: then the span is short, but the tensor as large as it claims.
        too_large = tensor.nbytes > storage.end - storage.start
        if too_large or offset + tensor.span > storage.end:
            raise UserError(f"{self._path} is damaged: a tensor is larger than its storage")
        return tensor


def _place(path: epath.Path, file: BinaryIO, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """First byte and end of an entry's content in the zip file."""
    # The local header's name and extra field may be longer than the directory says.
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = entry.header_offset + _LOCAL_HEADER_BYTES + lengths
    end = start + entry.file_size
    if end > file.seek(0, 2):
        raise UserError(f"{path} is damaged: {entry.filename!r} is larger than the file")
    return start, end


def _not_a_zip(path: epath.Path, file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(262)
    if head[:4] == b"PK\x03\x04":
        return f"{path} is truncated: download or copy it again"
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return (
            f"{path} is in the format of PyTorch before 1.6, which can't be read without running "
            "it: where PyTorch is installed, convert it with "
            '`torch.save(torch.load(OLD, weights_only=True, map_location="cpu"), NEW)`'
        )
    return f"{path} is not a PyTorch file, or is damaged"
