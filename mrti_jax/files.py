# SPDX-License-Identifier: Apache-2.0
"""Paths, text files from users, and files that are written completely or not at all."""

import contextlib
import os
import re
from collections.abc import Iterator

from etils import epath

from mrti_jax.errors import UserError


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that readers never see half of it,
    even if the process is killed.

    Raises UserError if it can't be written; a file that was there before is then kept.
    """
    with reporting(f"can't write {path}", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if in_object_store(path):  # an object appears only once it is complete
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


def append(path: epath.Path, text: str) -> None:
    """Adds text to a file. Raises UserError if it can't be written."""
    with reporting(f"can't write {path}", path):
        if in_object_store(path):  # objects can't be appended to
            before = path.read_bytes() if path.exists() else b""
            path.write_bytes(before + text.encode())
            return
        with path.open("a") as file:
            file.write(text)


def list_folder(folder: epath.Path) -> list[epath.Path]:
    """What is in a folder and not hidden, sorted by name; nothing if it is not a folder.

    Raises UserError if it can't be read.
    """
    with reporting(f"can't read the folder '{folder}'", folder):
        inside = folder.iterdir() if folder.is_dir() else ()
        return sorted(path for path in inside if not path.name.startswith("."))


def read_text(path: epath.Path, what: str) -> str:
    """The text of a UTF-8 file, without the byte order mark that Windows editors add.

    Raises UserError, which begins with `what`, if it can't be read or is in another encoding.
    """
    with reporting(what, path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: {reason(error)}") from None


def to_path(path: epath.PathLike) -> epath.Path:
    """The path on this machine, with `~` expanded, or in an object store.

    Raises UserError for a path in an unknown object store, or in one that can't be reached with
    what is installed, and for what can't be a path.
    """
    if "\0" in os.fspath(path):
        raise UserError(f"{os.fspath(path)!r} can't be a path: it has a null character")
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
    """Whether the path is a regular file, not a folder, a pipe or a device."""
    return path.is_file() if in_object_store(path) else os.path.isfile(path)


def in_object_store(path: epath.PathLike) -> bool:
    """Whether the path is in an object store, such as `gs://bucket/file`."""
    return "://" in os.fspath(path)


def failures(path: epath.PathLike) -> tuple[type[Exception], ...]:
    """What using the path may raise: the clients of object stores have errors of their own."""
    return (Exception,) if in_object_store(path) else (OSError,)


@contextlib.contextmanager
def reporting(what: str, path: epath.PathLike) -> Iterator[None]:
    """Turns what using the path may raise into a UserError that begins with `what`."""
    try:
        yield
    except UserError:
        raise
    except failures(path) as error:
        raise UserError(f"{what}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """An exception's message on one line; quoted paths are cut to their file names."""
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
