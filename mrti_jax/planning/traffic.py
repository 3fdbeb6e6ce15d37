# SPDX-License-Identifier: Apache-2.0
"""Bytes between a chip and its memory, read from the text of a program compiled for TPUs.

The compiler's own count of bytes includes on-chip memory: a weight that is copied there in slices
counts five times, though it is read from the chip's memory once.
"""

import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%([\w.\-]+) = (.+?) ([a-z][\w\-]*)\(([^)]*)(.*)")
_SHAPE = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\](?:\{([^}]*)\})?")
_FREE = re.compile(r"parameter|constant|tuple|get-tuple-element|bitcast|after-all|iota|.*-done")
_CALLED = re.compile(r"(?:to_apply|body|branch_computations)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)")


def memory_traffic(program: str) -> int:
    """Bytes read from and written to memory, in a compiled program's text.

    A loop's body is counted once, a condition by its largest branch, and a kernel as if it read its
    operands once.
    """
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if start := _COMPUTATION.match(line):
            name = start[2]
            computations[name] = []
            entry = name if start[1] else entry
        elif name:
            computations[name].append(line)

    def count(name: str) -> int:
        total, shapes = 0, dict[str, str]()
        for line in computations[name]:
            if not (found := _INSTRUCTION.match(line)):
                continue
            result, shape, kind, arguments, attributes = found.groups()
            shapes[result] = shape
            if kind in {"while", "call", "conditional"}:
                called = (match[1].replace("%", "").split(", ") for match in _CALLED.finditer(line))
                total += sum(max(map(count, names)) for names in called)
                continue
            operands = [shapes[name] for name in re.findall(r"%([\w.\-]+)", arguments)]
            total += _moved(kind, shape, operands, attributes)
        return total

    return count(entry)


def _moved(kind: str, shape: str, operands: list[str], attributes: str) -> int:
    """Bytes that one instruction reads and writes."""
    if _FREE.fullmatch(kind) or 'target="ConcatBitcast"' in attributes:
        return 0
    if 'target="AllocateBuffer"' in attributes:
        return 0
    if kind in {"copy-start", "slice-start"}:  # from one memory to another
        one, other = list(_in_memory(shape))[:2]
        moved = min(size for size, _ in (one, other))
        return sum(moved for _, inside in (one, other) if inside)
    if kind in {"slice", "dynamic-slice", "gather"}:  # only what comes out of the operand
        return 2 * _bytes(shape)
    return _bytes(shape) + sum(map(_bytes, operands))


def _bytes(shape: str) -> int:
    return sum(size for size, inside in _in_memory(shape) if inside)


def _in_memory(shape: str) -> Iterator[tuple[int, bool]]:
    """Bytes of each array of a shape, and whether it lies in the chip's memory."""
    for dtype, bits, lengths, layout in _SHAPE.findall(shape):
        width = 8 if dtype == "pred" else int(bits or 0)
        yield width * math.prod(map(int, filter(None, lengths.split(",")))) // 8, "S(" not in layout
