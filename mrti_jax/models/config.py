# SPDX-License-Identifier: Apache-2.0
"""Reading a diffusers `config.json` into a dataclass, refusing what we would compute wrongly."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from mrti_jax.errors import UserError

T = TypeVar("T")


def read_config(
    cls: type[T], config: Mapping[str, Any], *, where: str, only: Mapping[str, Any]
) -> T:
    """The dataclass `cls` from the JSON object `config`; keys that `cls` lacks are left out.

    Args:
        where: the file, for the error.
        only: the value that each key must have if it is there; for a list, the values that the
            elements may have.

    Raises:
        UserError: a key has a value that is not supported.
    """
    for key, supported in only.items():
        value = config.get(key, supported)
        if isinstance(supported, list):
            fits = isinstance(value, list) and set(value) <= set(supported)
        else:
            fits = value == supported
        if not fits:
            raise UserError(f"{where}: {key} = {value!r} is not supported (only {supported!r})")
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {key: value for key, value in config.items() if key in known}
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
