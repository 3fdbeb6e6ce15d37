# SPDX-License-Identifier: Apache-2.0
"""Paths, text that users wrote, and files that are written whole or not at all."""

import os
import re

from etils import epath

from mrti_jax.errors import UserError


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file, beside its place at first: a reader never sees half of it, whenever the
    process is killed.

    Raises UserError where it can't be written; what was there before is still there then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if in_object_store(path):  # an object appears when all of it is there
            path.write_bytes(content)
            return
        beside = path.parent / f".{path.name}.tmp"
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except (OSError, ImportError) as error:
        raise UserError(f"can't write {path}: {reason(error)}") from error


def append_line(path: epath.Path, line: str) -> None:
    """Adds a line to a text file. Raises UserError where it can't be written."""
    if in_object_store(path):  # objects can't grow
        before = path.read_bytes() if path.exists() else b""
        write_whole(path, before + line.encode() + b"\n")
        return
    try:
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(f"can't write {path}: {reason(error)}") from error


def read_text(path: epath.Path) -> str:
    """The text of a file in UTF-8, without the mark that Windows' editors put before it.

    Raises OSError and UnicodeDecodeError.
    """
    return path.read_bytes().decode("utf-8-sig")


def to_path(path: epath.PathLike) -> epath.Path:
    """The path on this machine, where `~` is the home folder, or in an object store.

    Raises UserError for what looks like an object store's, but is none that is known, or of one
    that can't be reached with what is installed.
    """
    try:
        found = epath.Path(path).expanduser()
    except KeyError as error:
        scheme = error.args[0]
        raise UserError(
            f"'{os.fspath(path)}' can't be reached: no store's paths start with '{scheme}'; give a "
            "path on this machine or one such as gs://bucket/folder"
        ) from None
    if in_object_store(path):
        _check_installed(os.fspath(path))
    return found


def is_regular(path: epath.Path) -> bool:
    """Whether the path is a file with an end: not a folder, a pipe or a device."""
    return path.is_file() if in_object_store(path) else os.path.isfile(path)


def in_object_store(path: epath.PathLike) -> bool:
    """Whether the path is one such as `gs://bucket/file`."""
    return "://" in os.fspath(path)


def reason(error: Exception) -> str:
    """What an exception says, on one line; files in quotes by their names alone."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(re.sub(r'"[^"]*/', '"', text).split())[:300]


def _check_installed(path: str) -> None:
    import fsspec

    scheme = path.split("://")[0]
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        advice = ": pip install -e '.[gcs]'" if scheme == "gs" else ""
        raise UserError(f"'{path}' can't be reached: {reason(error)}{advice}") from error
