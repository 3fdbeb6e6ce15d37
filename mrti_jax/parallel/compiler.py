# SPDX-License-Identifier: Apache-2.0
"""How large programs are compiled, and what compiling them leaves behind."""

import ctypes
import sys
from typing import Any

from jax.sharding import Mesh


def compiler_options(mesh: Mesh) -> dict[str, bool | int]:
    """Options of `jax.jit` for the devices of the mesh."""
    match mesh.devices.flat[0].platform:
        case "cpu":
            # XLA would order a program for as much concurrency as possible: a train step of Stable
            # Diffusion 1.5 at 256 px then holds half a gigabyte more, and is no faster.
            return {"xla_cpu_enable_concurrency_optimized_scheduler": False}
        case "gpu":
            # XLA would merge several products with the same input (queries, keys and values) into
            # one, and then copy its parts, and in each step the weights, to where they are used.
            return {"xla_gpu_dot_merger_threshold_mb": 0}
    return {}


def compile_ahead(program: Any, *arguments: Any) -> None:
    """Compiles a jitted function for these arguments; calling it with such then compiles nothing.

    Returns the memory that compiling took to the system: with glibc it would stay in the process,
    on top of what the program needs.
    """
    program.lower(*arguments).compile()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
