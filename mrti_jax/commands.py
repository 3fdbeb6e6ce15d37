# SPDX-License-Identifier: Apache-2.0
"""What the commands share: flags, one line for an error, exit status, the compilation cache."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO, TypeVar

import tyro

from mrti_jax.errors import Preempted, UserError

Flags = TypeVar("Flags")

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on
EXIT_INTERRUPTED = 130
MIN_COMPILE_SECONDS = 0.5


def run_command(
    flags_type: type[Flags],
    body: Callable[[Flags], None],
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
) -> int:
    """Reads the flags and runs `body` with them; gives the exit status.

    A UserError is one line on stderr and status 2, a warning one line on stderr; a run that was
    told to stop (SIGTERM) has status 75. `--help` and wrong flags leave by SystemExit, as argparse
    does.
    """
    flags = tyro.cli(
        flags_type, args=None if argv is None else list(argv), prog=prog, description=description
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            body(flags)
        except UserError as error:
            return _fail(str(error), EXIT_USER_ERROR)
        except Preempted as stopped:
            print(f"{stopped}; the same command goes on from there", file=sys.stderr)
            return EXIT_PREEMPTED
        except KeyboardInterrupt:
            return _fail("interrupted", EXIT_INTERRUPTED)
    return 0


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless jax is told of another one."""
    import jax

    if not jax.config.values.get("jax_compilation_cache_dir"):
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(caches) / "mrti_jax" / "xla"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def _fail(message: str, status: int) -> int:
    print(f"error: {_one_line(message)}", file=sys.stderr)
    return status


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {_one_line(str(message))}", file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split())
