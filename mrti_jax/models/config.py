# SPDX-License-Identifier: Apache-2.0
"""Reading a diffusers `config.json` into a dataclass, refusing what we would compute wrongly."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from mrti_jax.errors import UserError

T = TypeVar("T")

_WORDS = {
    int: "a positive integer",
    float: "a positive number",
    bool: "true or false",
    str: "a string",
    NoneType: "null",
}
# No count or width is larger; as a shape it would overflow.
_MOST = 2**31


def read_config(
    cls: type[T], config: Mapping[str, Any], *, where: str, only: Mapping[str, Any]
) -> T:
    """The dataclass `cls` from the JSON object `config`; keys that `cls` lacks are ignored.

    Each value must be of its field's type: int and float positive, list for tuple, not empty.

    Args:
        where: the file, for the error.
        only: the value that each key must have if present; for a list, the values that the elements
            may have. null, false and 0 are equivalent.

    Raises:
        UserError: a key has a value that is not supported.
    """
    for key, supported in only.items():
        value = config.get(key, supported)
        if isinstance(supported, list):
            fits = isinstance(value, list) and all(element in supported for element in value)
        else:
            fits = value == supported or not (value or supported)
        if not fits:
            raise _unsupported(where, key, value, repr(supported))
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in config:
            value = config[field.name]
            if not _fits(value, field.type):
                raise _unsupported(where, field.name, value, _words(field.type))
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def one_for_all(value: Any) -> Any:
    """The one value that a list repeats for each level or side; anything else unchanged."""
    if isinstance(value, list) and value and all(element == value[0] for element in value):
        return value[0]
    return value


def check_divides(where: str, key: str, divisor: int, of: str, widths: Sequence[int]) -> None:
    """Raises UserError unless each of `widths` (at the key `of`) is a multiple of `divisor` (at
    `key`)."""
    for width in widths:
        if width % divisor:
            raise UserError(f"{where}: {key} = {divisor} does not divide {of} = {width}")


def _unsupported(where: str, key: str, value: object, supported: str) -> UserError:
    return UserError(f"{where}: {key} = {value!r} is not supported (only {supported})")


def _fits(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        return (
            isinstance(value, list | tuple)
            and len(value) > 0
            and all(_fits(element, args[0]) for element in value)
        )
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and value > 0
    return type(value) is kind and (kind is not int or 0 < value < _MOST)


def _words(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple:
        return f"a list, not empty, each {_words(args[0])}"
    return _WORDS[kind]
