# SPDX-License-Identifier: Apache-2.0
"""Dataclasses from YAML files and back, refusing unknown keys and values of the wrong type."""

import dataclasses
import types
from collections.abc import Mapping
from reprlib import repr as brief  # YAML's aliases can make short text an endless value
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from etils import epath

from mrti_jax.errors import UserError, check_word, nearest, shown
from mrti_jax.files import is_regular, read_text, reason, reporting, write_whole

T = TypeVar("T")
MAX_BYTES = 1_000_000
_OURS = "# All settings of this run, written by mrti_jax."


class _Loader(yaml.SafeLoader):
    """Refuses a key that appears twice, of which PyYAML would take the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(
                    problem=f"the key {brief(key.value)} appears twice",
                    problem_mark=key.start_mark,
                )
            seen.add((key.tag, key.value))
        return node


def read_yaml(path: epath.Path) -> Mapping[Any, Any]:
    """The mapping that a YAML file holds. Raises UserError for anything else."""
    what = f"can't read the configuration file {path}"
    with reporting(what, path):
        if not path.exists():
            raise UserError(f"there is no configuration file {path}")
        if path.is_dir():
            raise UserError(f"{path} is a folder: for photos in it use --data.path {path}")
        if not is_regular(path) or path.stat().length > MAX_BYTES:
            raise UserError(f"{path} is not a configuration file: a device, or far too large")
        text = read_text(path, what)
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the 99th of May
        told = reason(error).replace('in "<unicode string>", ', "").rstrip(" ^")
        raise UserError(f"{path} is not YAML: {told}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold `key: value` lines, not {type(value).__name__}")
    return value


def from_mapping(cls: type[T], values: Mapping[Any, Any], where: str, prefix: str = "") -> T:
    """The dataclass with these values; its dataclass fields are nested mappings.

    Raises UserError for an unknown key or a value that its field can't hold.
    """
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in known:
            inside = f" in '{prefix[:-1]}'" if prefix else ""
            hint = nearest(str(key)[:80], known) or f"; choose from {', '.join(known)}"
            raise UserError(f"{where}: unknown key {brief(str(key))}{inside}{hint}")
        arguments[key] = _build(value, hints[key], where, f"{prefix}{key}")
    return cls(**arguments)


def _build(value: Any, hint: Any, where: str, name: str) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: '{name}' is {shown(value)}, but must be a list")
        item, _ = get_args(hint)
        return tuple(_build(one, item, where, f"{name}[{i}]") for i, one in enumerate(value))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where}: '{name}' is {shown(value)}, but must hold keys")
        return from_mapping(hint, value, where, f"{name}.")
    return _convert(value, hint, f"{where}: '{name}'")


def _convert(value: Any, hint: Any, what: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Literal:
        check_word(what, value, get_args(hint))
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # also text: YAML 1.1 reads 2e-3 as a string
        except (ValueError, OverflowError):
            pass
    elif type(value) is hint:
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    raise UserError(f"{what} is {shown(value)}, but must be {names[hint]}")


def write_yaml(value: Any, path: epath.Path) -> None:
    """Writes a dataclass as YAML that `from_mapping` reads, after a line that says who wrote it."""
    text = yaml.safe_dump(dataclasses.asdict(value), sort_keys=False, allow_unicode=True)
    write_whole(path, f"{_OURS}\n{text}".encode())


def is_ours(path: epath.Path) -> bool:
    """Whether a file was written by `write_yaml`. Raises UserError if it can't be read."""
    return read_text(path, f"can't read {path}").startswith(_OURS)
