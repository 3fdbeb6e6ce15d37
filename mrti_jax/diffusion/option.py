# SPDX-License-Identifier: Apache-2.0
"""Checks an option of a scheduler config against its type."""

from typing import Any, Literal, get_args, get_origin

from mrti_jax.errors import UserError, check_word

_WORDS = {bool: "true or false", int: "an integer", float: "a number"}


def check_option(key: str, value: object, kind: Any) -> None:
    """Raises UserError, naming the key and the value, unless `value` is of the type `kind`.

    Args:
        kind: bool, int, float (an integer will do), or a Literal of the known words.
    """
    if get_origin(kind) is Literal:
        check_word(f"scheduler config: {key}", value, get_args(kind))
    elif type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(f"scheduler config: {key} is {value!r}, not {_WORDS[kind]}")
