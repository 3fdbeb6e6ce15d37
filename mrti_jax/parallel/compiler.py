# SPDX-License-Identifier: Apache-2.0
"""How large programs are compiled, and what compiling them leaves behind."""

import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from jax.sharding import Mesh

from mrti_jax.errors import Preempted

# Seconds between looks at whether to stop.
_BETWEEN = 0.1


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


def compile_ahead(
    program: Any, *arguments: Any, heed_stop: Callable[[], None] = lambda: None
) -> None:
    """Compiles a jitted function for these arguments; calling it with such then compiles nothing.

    Signals are heard meanwhile, and `heed_stop` is called now and then; it may raise. Returns the
    memory that compiling took to the system: with glibc it would stay in the process, on top of
    what the program needs.
    """
    lowered = program.lower(*arguments)  # here: JAX's settings may be those of this thread
    compiled: Future[Any] = Future()

    def work() -> None:
        try:
            compiled.set_result(lowered.compile())
        except BaseException as error:
            compiled.set_exception(error)

    # Python's signal handlers run in the main thread, and not while that is in XLA.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not wait([compiled], _BETWEEN).done:
            heed_stop()
    except (KeyboardInterrupt, Preempted) as stopped:
        # The statuses that the commands have for these.
        atexit.register(_leave, thread, 130 if isinstance(stopped, KeyboardInterrupt) else 75)
        raise
    compiled.result()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def _leave(thread: threading.Thread, status: int) -> None:
    """Ends a stopped process in which XLA still compiles: Python's own end would abort it."""
    if thread.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
