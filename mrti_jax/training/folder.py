# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: one that can be written to, and where an earlier run goes."""

import itertools

from etils import epath

from mrti_jax.errors import UserError, warn
from mrti_jax.files import reason
from mrti_jax.parallel.processes import gather, is_writer


def writable(folder: epath.Path) -> epath.Path:
    """Makes the folder and a file in it, now rather than after the training.

    All processes must see the file: checkpoints are written and read by all of them.
    """
    probe = folder / ".probe"
    problem = ""
    if is_writer():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
        except (OSError, ImportError) as error:
            problem = " ".join(str(error).split())
    (problem, *_) = gather(problem)
    if problem:
        raise UserError(f"can't write to the folder '{folder}' (--out): {problem}")
    seen = gather(probe.exists())
    if is_writer():
        probe.unlink()
    if not all(seen):
        raise UserError(
            f"the folder '{folder}' (--out) isn't the same for all processes, process "
            f"{seen.index(False)} has another: choose one on a shared disk, or gs://BUCKET/FOLDER"
        )
    return folder


def move_aside(folder: epath.Path) -> None:
    """Renames a run's folder, so that another one can begin in its place, and tells of it."""
    moved = _rename(folder) if is_writer() else None
    gather(None)  # the others wait
    if moved is not None:
        warn(f"the run that was in '{folder}' is now in '{moved}'")


def _rename(folder: epath.Path) -> epath.Path | None:
    """Renames a run's folder to `<folder>-1`, `<folder>-2`, ... and gives the new name.

    None if there is nothing in it. Raises UserError where it can't be renamed.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return None
    names = (folder.parent / f"{folder.name}-{i}" for i in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    try:
        folder.rename(aside)
    except OSError as error:
        raise UserError(f"can't rename the folder '{folder}': {reason(error)}") from error
    return aside
