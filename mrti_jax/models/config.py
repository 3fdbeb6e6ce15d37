# SPDX-License-Identifier: Apache-2.0
"""Reading a diffusers `config.json` into a dataclass, refusing what we would compute wrongly."""

import dataclasses
from collections.abc import Mapping, Sequence
from reprlib import repr as brief  # a value from a file may be endless
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from mrti_jax.errors import UserError

T = TypeVar("T")

_WORDS = {
    float: "a positive number",
    bool: "true or false",
    str: "a string",
    NoneType: "null",
}
# No width is larger, and with more levels or layers a model would take hours to build.
_MOST = 2**20
_MOST_LAYERS = 100
# Of the latents, along a side.
_MOST_SAMPLES = 2**12


def read_config(
    cls: type[T], config: Mapping[str, Any], *, where: str, only: Mapping[str, Any]
) -> T:
    """The dataclass `cls` from the JSON object `config`; keys that `cls` lacks are ignored.

    Each value must be of its field's type: int and float positive, list for tuple, not empty; none
    may be so large that no model could have it.

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
            if not _fits(value, field.type, most := _most(field.name)):
                raise _unsupported(where, field.name, value, _words(field.type, most))
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
    return UserError(f"{where}: {key} = {brief(value)} is not supported (only {supported})")


def _most(name: str) -> int:
    """The largest integer that the field `name` may be."""
    if name == "sample_size":
        return _MOST_SAMPLES
    return _MOST_LAYERS if "layers" in name else _MOST


def _fits(value: Any, kind: Any, most: int) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, arg, most) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        return (
            isinstance(value, list | tuple)
            and 0 < len(value) <= _MOST_LAYERS
            and all(_fits(element, args[0], most) for element in value)
        )
    if kind is float:
        return type(value) in (int, float) and 0 < value <= _MOST
    return type(value) is kind and (kind is not int or 0 < value <= most)


def _words(kind: Any, most: int) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_words(arg, most) for arg in args)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple:
        return f"a list of 1 to {_MOST_LAYERS}, each {_words(args[0], most)}"
    return f"an integer from 1 to {most}" if kind is int else _WORDS[kind]
