# SPDX-License-Identifier: Apache-2.0
"""The check of a word in a scheduler config against the known ones."""

from collections.abc import Sequence

from mrti_jax.errors import UserError, nearest


def check_choice(key: str, value: object, known: Sequence[str]) -> None:
    """Raises UserError, naming the key, the value and the known ones, unless `value` is known."""
    if value not in known:
        raise UserError(
            f"scheduler config: {key} is {value!r}, known are {', '.join(known)}."
            f"{nearest(str(value), known)}"
        )
