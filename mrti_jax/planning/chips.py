# SPDX-License-Identifier: Apache-2.0
"""The TPUs that programs can be compiled for."""

import dataclasses
from typing import Any

_GIB = 2**30
_TWO_D = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_THREE_D = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU, according to its page at Google Cloud (peak rates) and the compiler (memory).

    Attributes:
        flops: peak bfloat16 multiplications and additions per second.
        bandwidth: peak bytes per second between the chip and its memory.
        memory: bytes of memory that a program may use.
        slices: the arrangement of a slice by its number of chips.
        options: what the compiler must be told besides the chip's name.
    """

    flops: float
    bandwidth: float
    memory: float
    slices: dict[int, str]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


CHIPS = {
    "v4": Chip(275e12, 1228e9, 30.75 * _GIB, _THREE_D, {"chip_config_name": "megacore"}),
    "v5e": Chip(197e12, 819e9, 15.75 * _GIB, _TWO_D),
    "v5p": Chip(459e12, 2765e9, 95.74 * _GIB, _THREE_D),
    "v6e": Chip(918e12, 1640e9, 31.25 * _GIB, _TWO_D),
}
