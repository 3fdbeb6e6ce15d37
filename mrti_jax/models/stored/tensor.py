# SPDX-License-Identifier: Apache-2.0
"""A tensor that is still on disk: where its numbers are, and reading a part of them."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.files import reporting

# By the name in safetensors files.
DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(scalar)
    for name, scalar in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
# NumPy's limits.
_MAX_AXES = 64
_MAX_NUMBERS = 2**58
# Small enough that the allocator reuses the same memory: fresh pages cost more time than reading.
_PIECE_BYTES = 8 * 2**20


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A strided view of numbers in a file; nothing is read before `read`.

    Attributes:
        offset: of the first number, in bytes from the file's start.
        strides: in numbers, along each axis; not negative.
    """

    path: epath.Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for a shape that no array can have, such as 0 by 2**64."""
        longest = math.prod(max(n, 1) for n in self.shape)
        if len(self.shape) > _MAX_AXES or max(longest, *self.strides, 0) > _MAX_NUMBERS:
            raise ValueError("no array has this shape")

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them, once read."""
        return self.size * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes from the first number to the end of the last."""
        if not self.size:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return self.dtype.itemsize * (1 + sum((n - 1) * step for n, step in steps))

    def rows(self, start: int, stop: int) -> "StoredTensor":
        """The rows from `start` up to, but not including, `stop`."""
        return dataclasses.replace(
            self,
            offset=self.offset + start * self.strides[0] * self.dtype.itemsize,
            shape=(stop - start, *self.shape[1:]),
        )

    def transposed(self) -> "StoredTensor":
        """With the axes in reverse order."""
        return dataclasses.replace(self, shape=self.shape[::-1], strides=self.strides[::-1])

    def squeezed(self) -> "StoredTensor":
        """Without the axes from the third on; they must have length 1."""
        assert set(self.shape[2:]) <= {1}
        return dataclasses.replace(self, shape=self.shape[:2], strides=self.strides[:2])

    def read(self, index: tuple[slice, ...] = (), dtype: np.dtype | None = None) -> np.ndarray:
        """The numbers at `index` (slices without steps; all if not given), in the file's dtype.

        For a part of the first axis, only its rows are read.

        Args:
            dtype: to cast to, piece by piece, so that little is held in the file's dtype.

        Raises:
            UserError: the file can't be read.
        """
        index += (slice(None),) * (len(self.shape) - len(index))
        lengths = [len(range(*part.indices(n))) for part, n in zip(index, self.shape, strict=True)]
        result = np.empty(lengths, self.dtype if dtype is None else dtype)
        with reporting(f"{self.path} can't be read", self.path), self.path.open("rb") as file:
            if not self.shape:
                result[()] = self._read(file)
                return result
            first = index[0].indices(self.shape[0])[0]
            for start, stop in self._pieces(lengths[0]):
                piece = self.rows(first + start, first + stop)._read(file)
                result[start:stop] = piece[(slice(None), *index[1:])]
        return result

    def _pieces(self, num_rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of rows to read at once."""
        step = max(num_rows, 1)
        if self.strides[0] == max(self.strides):  # else rows interleave
            step = max(1, _PIECE_BYTES // max(1, self.strides[0] * self.dtype.itemsize))
        for start in range(0, num_rows, step):
            yield start, min(start + step, num_rows)

    def _read(self, file: Any) -> np.ndarray:
        # Read, not mapped: a map's pages would count as memory of this process.
        data = np.empty(self.span, np.uint8)
        file.seek(self.offset)
        if file.readinto(data.data) != len(data):
            raise UserError(f"{self.path} is truncated: download or copy it again")
        strides = tuple(step * self.dtype.itemsize for step in self.strides)
        return np.ndarray(self.shape, self.dtype, data, strides=strides)


Tensors: TypeAlias = Mapping[str, StoredTensor]


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in numbers, of rows that follow each other."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
