# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run (Orbax): the whole state to resume from, and the concept as it was then.

A checkpoint has the items `state`, `concept` (embeddings and boundaries) and `meta` (JSON, with the
digests of all three). It is written under another name and renamed, so a kill leaves no partial
one; later damage is found by the digests, and the checkpoint before it is used.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.options import MultiprocessingOptions

from mrti_jax.concept import Concept
from mrti_jax.concept.table import FILE_NAME
from mrti_jax.errors import UserError, warn
from mrti_jax.files import failures, in_object_store, reason, reporting, to_path
from mrti_jax.parallel.mesh import fetch
from mrti_jax.parallel.processes import as_writer, failing_together, gather, means_a_lost_process

FOLDER = "checkpoints"
# Seconds for which processes wait for one that could not write.
_PATIENCE = 300
# How tensorstore's errors begin where a store, and not what it holds, is the trouble.
_OUT_OF_REACH = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED")
_ITEMS = ("state", "concept", "meta")

T = TypeVar("T")


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Never: a question of Orbax's would upset the processes' count in `StopRequest`."""
        return False


class Checkpoints:
    """The checkpoints of the concept `name` in an output folder; a context manager, which waits for
    the last write."""

    def __init__(self, out: epath.Path, name: str, keep: int):
        self.folder = _absolute(out) / FOLDER
        # Folders that are written at the same time must not share barriers of the processes. Each
        # process may know the folder by another path, but not the concept by another name.
        own_barriers = MultiprocessingOptions(barrier_sync_key_prefix=name)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            multiprocessing_options=own_barriers,
            async_options=ocp.AsyncOptions(timeout_secs=_PATIENCE),
        )
        as_writer(self._make)  # before Orbax's own, for which the other processes would wait
        with _writing(self.folder):
            self._manager = _Manager(self.folder, options=options, item_names=_ITEMS)

    def _make(self) -> None:
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with _writing(self.folder):
                self._manager.close()
        except UserError as error:
            if kind is None:
                raise
            warn(str(error))  # what ended the run matters more

    def save(self, step: int, state: Any, concept: Concept, settings: dict[str, Any]) -> None:
        """Writes a checkpoint in the background; the state must not be donated meanwhile.

        Raises UserError if this one, or the one before, can't be written.
        """
        arrays = {"embeddings": concept.embeddings, "boundaries": concept.boundaries}
        meta = {
            "name": concept.name,
            "shape": list(concept.embeddings.shape),
            "parts": concept.parts,
            "metadata": concept.metadata,
            "settings": settings,
            "digests": {"state": _digest(state), "concept": _digest(arrays)},
        }
        with _writing(self.folder):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    concept=ocp.args.StandardSave(arrays),
                    meta=ocp.args.JsonSave(meta | {"digest": _json_digest(meta)}),
                ),
            )

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk. Raises UserError if it can't be written."""
        with _writing(self.folder):
            self._manager.wait_until_finished()

    def resume(self, like: T, check: Callable[[dict[str, Any], int], None]) -> tuple[int, T]:
        """The number of updates and the state of the newest intact checkpoint; 0 and `like` if
        there is none at all.

        The state gets the shapes, dtypes and shardings of `like`. `check` is called with the
        settings of the checkpoint and its number of updates before the state is read. Newer ones
        that are damaged are named in a warning and moved aside. Raises UserError if none is intact.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)

        def read(step: int) -> T:
            meta = _read_meta(self._manager, step)
            check(meta["settings"], step)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
            state = self._manager.restore(step, args=args)["state"]
            _verify(_digest(state), meta["digests"]["state"])
            return state

        if not self._manager.all_steps():
            return 0, like
        step, state, damaged = _newest_whole(self._manager, self.folder, read)
        for number in damaged:  # else Orbax would not write checkpoints of these steps again
            as_writer(functools.partial(_move_aside, self.folder / str(number)))
        if damaged:
            self._manager.reload()
        return step, state


def load_concept(out: epath.PathLike) -> Concept:
    """The concept in the newest intact checkpoint of a training folder (or of its folder of
    checkpoints), without concept.safetensors.

    Warns of newer ones that are damaged. Raises UserError if none is intact.
    """
    folder = _absolute(to_path(out))
    with reporting(f"can't read the checkpoints in '{out}'", folder):
        folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
        found = folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())
    if not found:
        meant = f"'{folder.parent}'" if folder.name.isdigit() else "its checkpoints/"
        raise UserError(
            f"'{out}' holds neither {FILE_NAME} nor checkpoints: give a training folder, or {meant}"
        )
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder, options=options, item_names=_ITEMS) as manager:

        def read(step: int) -> Concept:
            meta = _read_meta(manager, step)
            rows = meta["shape"][0]
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            shapes = {
                "embeddings": jax.ShapeDtypeStruct(tuple(meta["shape"]), np.float32, sharding=here),
                "boundaries": jax.ShapeDtypeStruct((rows + 1,), np.int32, sharding=here),
            }
            args = ocp.args.Composite(concept=ocp.args.StandardRestore(shapes))
            arrays = manager.restore(step, args=args)["concept"]
            _verify(_digest(arrays), meta["digests"]["concept"])
            return Concept(
                meta["name"],
                np.array(arrays["embeddings"]),
                np.array(arrays["boundaries"]),
                meta["metadata"],
                tuple((part, width) for part, width in meta["parts"]),
            )

        _, concept, _ = _newest_whole(manager, folder, read)
    return concept


def _newest_whole(
    manager: ocp.CheckpointManager, folder: epath.Path, read: Callable[[int], T]
) -> tuple[int, T, list[int]]:
    """The newest checkpoint that can be read: its step, its content, and the damaged newer ones."""
    damaged: list[int] = []
    for step in sorted(manager.all_steps(), reverse=True):
        where, content, problem = folder / str(step), None, ""
        with failing_together():
            try:
                content = read(step)
            except UserError:
                raise
            except Exception as error:  # readers raise all kinds of errors for damaged files
                problem = reason(error)
                if isinstance(error, PermissionError) or problem.startswith(_OUT_OF_REACH):
                    raise UserError(f"can't read the checkpoint {where}: {problem}") from error
        problem = next(filter(None, gather(problem)), "")  # processes use the same one
        if content is not None and not problem:
            if damaged:
                warn(f"using the checkpoint before it, {where}")
            return step, content, damaged
        warn(f"the checkpoint {where} is damaged and ignored: {problem}")
        damaged.append(step)
    raise UserError(
        f"none of the checkpoints in {folder} can be read: start over with --restart or another "
        "--out"
    )


def _read_meta(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    meta = dict(manager.restore(step, args=args)["meta"])
    _verify(_json_digest({key: meta[key] for key in meta if key != "digest"}), meta["digest"])
    return meta


def _digest(tree: Any) -> str:
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = fetch(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
        content.update(f"{array.dtype} {array.shape}".encode())
        content.update(array.tobytes())
    return content.hexdigest()


def _json_digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _verify(found: str, written: str) -> None:
    if found != written:
        raise ValueError("its content is not what was written")


def _move_aside(checkpoint: epath.Path) -> None:
    """Hides a checkpoint from Orbax, which reads the folders whose names are numbers."""
    aside = checkpoint.parent / f"damaged-{checkpoint.name}"
    with _writing(checkpoint.parent):
        if aside.exists():
            aside.rmtree()
        checkpoint.rename(aside)


@contextlib.contextmanager
def _writing(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        is_failure = isinstance(error, (*failures(folder), ValueError, RuntimeError))
        is_of_device = isinstance(error, jax.errors.JaxRuntimeError)
        if not is_failure or is_of_device or means_a_lost_process(error):
            raise
        raise UserError(
            f"can't write checkpoints to {folder} ({reason(error)}): what was saved before is "
            "intact; make room, then run the same command to continue from there"
        ) from error


def _absolute(path: epath.Path) -> epath.Path:
    """The path as Orbax needs it; those in object stores are absolute."""
    return path if in_object_store(path) else epath.Path(os.path.abspath(path))
