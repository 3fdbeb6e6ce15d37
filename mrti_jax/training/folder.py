# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: writable, held by one run at a time, and moved aside for a new one."""

import contextlib
import fcntl
import itertools
from collections.abc import Iterator
from typing import TextIO

from etils import epath

from mrti_jax.errors import UserError, warn
from mrti_jax.files import in_object_store, reason, reporting, to_path
from mrti_jax.parallel.processes import as_writer, gather, is_writer

LOCK_NAME = ".lock"
# A run's folder holds one of these.
_MARKS = ("checkpoints", "concept.safetensors", "config.yaml")


def check_apart(out: epath.PathLike, photos: epath.PathLike, *, restart: bool) -> None:
    """Raises UserError if the folder for the results is that of the photos or lies in it, where the
    next run would take the results for photos; and if `restart` would move the photos away."""
    results, pictures = (
        path if in_object_store(path) else path.resolve() for path in map(to_path, (out, photos))
    )
    if restart and pictures.is_relative_to(results):
        raise UserError(
            f"--restart would move the photos '{photos}' away, which are in the folder '{out}' "
            "(--out): move them out of it, or choose another --out"
        )
    if results.is_relative_to(pictures):
        raise UserError(
            f"the results would go to '{out}', in the photos' folder '{photos}': choose another "
            "folder with --out"
        )


def writable(folder: epath.Path) -> epath.Path:
    """Makes the folder and a file in it, now rather than after training.

    All processes must see the file: checkpoints are written and read by all of them.
    """
    probe = folder / ".probe"

    def make() -> None:
        if not in_object_store(folder) and folder.exists() and not folder.is_dir():
            raise UserError(f"'{folder}' is a file: name a folder with --out")
        with reporting(f"can't write to the folder '{folder}' (--out)", folder):
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_text("")

    as_writer(make)
    seen = gather(probe.exists())
    if is_writer():
        probe.unlink(missing_ok=True)
    if not all(seen):
        raise UserError(
            f"the folder '{folder}' (--out) isn't the same for all processes, process "
            f"{seen.index(False)} has another: choose one on a shared disk, or gs://BUCKET/FOLDER"
        )
    return folder


@contextlib.contextmanager
def held(folder: epath.Path) -> Iterator[None]:
    """Makes a folder and keeps other runs out of it; all processes call it together.

    The lock ends with the process, however that ends; its empty file stays. Object stores have no
    locks: there, nothing keeps two runs apart. On other file systems without locks, it warns.

    Raises UserError if another run is at work there.
    """
    with contextlib.ExitStack() as stack:

        def hold() -> None:
            if in_object_store(folder):
                return
            with reporting(f"can't write to the folder '{folder}' (--out)", folder):
                folder.mkdir(parents=True, exist_ok=True)
                _lock(stack.enter_context((folder / LOCK_NAME).open("a")), folder)

        as_writer(hold)
        yield


def _lock(file: TextIO, folder: epath.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another run is at work in the folder '{folder}' (--out): wait for it to end, or "
            "choose another folder"
        ) from error
    except OSError as error:
        warn(f"the folder '{folder}' can't be locked ({reason(error)}): start no other run in it")


def move_aside(folder: epath.Path) -> None:
    """Renames a run's folder to `<folder>-1`, `<folder>-2`, ..., so that another one can begin in
    its place, and says so in a warning. Does nothing if it holds nothing but the lock.

    Raises UserError if it holds anything but a run, or can't be renamed.
    """
    as_writer(lambda: _rename(folder))


def _rename(folder: epath.Path) -> None:
    with reporting(f"can't rename the folder '{folder}'", folder):
        if not folder.exists() or all(path.name == LOCK_NAME for path in folder.iterdir()):
            return
        if not any((folder / mark).exists() for mark in _MARKS):
            raise UserError(
                f"the folder '{folder}' (--out) holds no run that --restart could start over: "
                "choose another folder"
            )
        names = (folder.parent / f"{folder.name}-{i}" for i in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        folder.rename(aside)
    warn(f"the run that was in '{folder}' is now in '{aside}'")
