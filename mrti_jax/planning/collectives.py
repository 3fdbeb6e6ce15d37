# SPDX-License-Identifier: Apache-2.0
"""What crosses between devices in a compiled program."""

import collections
import math
import re

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4, "bf16": 2, "f16": 2}


def collective_bytes(program: str) -> dict[str, int]:
    """By kind of collective, the bytes of its results on each device, in a compiled program's text.

    A loop's body is counted once.
    """
    found: dict[str, int] = collections.Counter()
    # An asynchronous one has only its result at "-done".
    for result, kind in re.findall(rf"= (.*?) ({KINDS})(?:-done)?\(", program):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
            found[kind] += BYTES[dtype] * math.prod(map(int, filter(None, shape.split(","))))
    return dict(found)
