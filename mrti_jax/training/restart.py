# SPDX-License-Identifier: Apache-2.0
"""Beginning a run anew without losing the one before."""

import itertools

from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.files import reason


def move_aside(folder: epath.Path) -> epath.Path | None:
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
