# SPDX-License-Identifier: Apache-2.0
"""What the commands share: flags, one-line errors, exit statuses, the compilation cache."""

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO, TypeVar

from mrti_jax.errors import Preempted, UserError
from mrti_jax.flags import read_flags

Flags = TypeVar("Flags")

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, resumes
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # as for a program killed by SIGPIPE
MIN_COMPILE_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class ProcessFlags:
    """How this process finds the others of its run, if it is one of several."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """Join the other processes of the run, found through Cloud TPU, GKE, Slurm, Open MPI or
    --coordinator. on: fail if there are none; off: stay alone."""
    coordinator: str | None = None
    """HOST:PORT of process 0, if nothing else provides it."""
    num_processes: int | None = None
    """With --coordinator: how many processes there are."""
    process_id: int | None = None
    """With --coordinator: which one this is, from 0."""


def run_command(
    flags_type: type[Flags],
    body: Callable[[Flags], None],
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    less_memory: str = "",
) -> int:
    """Reads the flags and runs `body` with them; returns the exit status.

    `less_memory`: advice if a device is out of memory: flags that reduce its use.

    A UserError, or a device out of memory, is one line on stderr and status 2; a warning is one
    line on stderr. Status 75 is a run that was told to stop (SIGTERM) or lost one of its processes,
    130 is Ctrl-C, 141 a closed pipe; anything else is a traceback and status 1. `--help` exits by
    SystemExit, as in argparse.
    """
    try:
        flags = read_flags(flags_type, argv, prog=prog, description=description)
    except UserError as error:
        return _fail(str(error), EXIT_USER_ERROR)
    except BrokenPipeError:
        return _closed_pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            body(flags)
            if sys.stdout is not None:  # it is None if closed, as by >&-
                sys.stdout.flush()
        except UserError as error:
            return _fail(str(error), EXIT_USER_ERROR)
        except Preempted as stopped:  # all processes at once
            print(stopped, file=sys.stderr)
            return EXIT_PREEMPTED
        except KeyboardInterrupt as interrupted:
            if interrupted.args:
                print(interrupted, file=sys.stderr)
                return EXIT_INTERRUPTED
            return _fail("interrupted", EXIT_INTERRUPTED)
        except BrokenPipeError:
            return _closed_pipe()
        except Exception as error:
            if less_memory and _means_out_of_memory(error):
                return _fail(f"a device is out of memory: {less_memory} ({error})", EXIT_USER_ERROR)
            if not _is_one_of_several():
                raise
            from mrti_jax.parallel.processes import means_a_lost_process

            if means_a_lost_process(error):
                lost = f"a process of this run was lost, so this one ends too: {error}"
                return _fail(f"{lost}; run the same command again", EXIT_PREEMPTED)
            traceback.print_exc()
            return _fail("unexpected: see the traceback above", 1)
    return 0


def join_processes(flags: ProcessFlags, *, stop_together: bool) -> None:
    """Finds the other processes of this run, if any; call it before any other use of JAX.

    Raises UserError if they can't be found, or if JAX can't use this machine's accelerator.
    """
    from mrti_jax.parallel.accelerator import check_accelerator
    from mrti_jax.parallel.processes import join

    if flags.coordinator is not None:  # JAX itself waits for minutes, and says nothing
        told = f"joining the other processes at {flags.coordinator} ..."
        print(told, file=sys.stderr, flush=True)
    join(
        flags.distributed,
        flags.coordinator,
        flags.num_processes,
        flags.process_id,
        stop_together=stop_together,
    )
    check_accelerator()


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX is set to use another one or
    the user has no home."""
    import jax

    if not jax.config.values.get("jax_compilation_cache_dir"):
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if caches.startswith("~"):  # of a user without a home
            return
        jax.config.update("jax_compilation_cache_dir", os.path.join(caches, "mrti_jax", "xla"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def _closed_pipe() -> int:
    """The reader of the output, such as `head`, has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


def _fail(message: str, status: int) -> int:
    print(f"error: {_one_line(message)}", file=sys.stderr, flush=True)
    if _is_one_of_several():
        # Python's own exit would first wait for the others, and they may be waiting for this one.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
    return status


def _means_out_of_memory(error: Exception) -> bool:
    # A CPU's run time calls it INTERNAL, numpy a MemoryError.
    return isinstance(error, MemoryError) or any(
        told in str(error) for told in ("RESOURCE_EXHAUSTED", "Out of memory allocating")
    )


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")  # a command that hasn't used it runs alone
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = f"warning: {_one_line(str(message))}"
    tqdm = sys.modules.get("tqdm")
    if tqdm is None:
        print(text, file=sys.stderr)
    else:  # on a line of its own, above the bars
        tqdm.tqdm.write(text, file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split())
