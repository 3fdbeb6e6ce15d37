# SPDX-License-Identifier: Apache-2.0
"""Checks an option of a scheduler config against its type and range."""

from typing import Any, Literal, get_args, get_origin

from mrti_jax.errors import UserError, check_word, shown

_WORDS = {int: "an integer", float: "a number"}
# Nothing in a noise schedule is larger; arrays of such lengths would fill the memory.
_MOST = 10**6


def check_option(
    key: str, value: Any, kind: Any, *, least: float = -_MOST, most: float = _MOST
) -> None:
    """Raises UserError, naming the key and the value, unless `value` is of the type `kind`.

    Args:
        kind: bool, int, float (an integer will do), or a Literal of the known words.
        least, most: the range of a number.
    """
    if get_origin(kind) is Literal:
        check_word(f"scheduler config: {key}", value, get_args(kind))
    elif kind is bool:
        if type(value) is not bool:
            raise UserError(f"scheduler config: {key} is {shown(value)}, not true or false")
    elif type(value) not in {int, kind} or not least <= value <= most:
        raise UserError(
            f"scheduler config: {key} is {shown(value)}, not {_WORDS[kind]} between "
            f"{least:.7g} and {most:.7g}"
        )
