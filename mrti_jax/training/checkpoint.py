# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run (Orbax): the whole state to go on from, and the concept as it was then.

A checkpoint has the items `state`, `concept` (embeddings and boundaries) and `meta` (JSON).
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from mrti_jax.concept import Concept
from mrti_jax.errors import UserError

FOLDER = "checkpoints"
_ITEMS = ("state", "concept", "meta")


class Checkpoints:
    """The checkpoints of an output folder; a context manager, which waits for the last write."""

    def __init__(self, out: epath.Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self.folder = _absolute(out) / FOLDER
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=_ITEMS)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The newest checkpoint's number of updates; None without one."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, concept: Concept, settings: dict[str, Any]) -> None:
        """Writes a checkpoint in the background."""
        arrays = {"embeddings": concept.embeddings, "boundaries": concept.boundaries}
        meta = {
            "name": concept.name,
            "shape": list(concept.embeddings.shape),
            "parts": concept.parts,
            "metadata": concept.metadata,
            "settings": settings,
        }
        # The next step reuses the state's memory while this is being written.
        copy = jax.tree.map(jnp.copy, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(copy),
                concept=ocp.args.StandardSave(arrays),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def settings(self) -> dict[str, Any]:
        """The settings that the newest checkpoint was written with."""
        return _read_meta(self._manager, self.folder)["settings"]

    def restore(self, like: Any) -> Any:
        """The newest state, with the shapes, dtypes and shardings of `like`."""
        step = self._manager.latest_step()
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
            return self._manager.restore(step, args=args)["state"]
        except (ValueError, KeyError, OSError) as error:
            raise _unreadable(self.folder, step, error) from error


def load_concept(out: epath.PathLike) -> Concept:
    """The concept in the newest checkpoint of a training folder (or of its folder of checkpoints),
    without concept.safetensors.

    Raises UserError if there is none, or it is damaged.
    """
    folder = _absolute(epath.Path(out))
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    if not folder.is_dir() or not any(path.name.isdigit() for path in folder.iterdir()):
        raise UserError(f"'{out}' holds no checkpoint: is it a training folder?")
    with ocp.CheckpointManager(folder, item_names=_ITEMS) as manager:
        step = manager.latest_step()
        meta = _read_meta(manager, folder)
        rows = meta["shape"][0]
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = {
            "embeddings": jax.ShapeDtypeStruct(tuple(meta["shape"]), np.float32, sharding=here),
            "boundaries": jax.ShapeDtypeStruct((rows + 1,), np.int32, sharding=here),
        }
        try:
            args = ocp.args.Composite(concept=ocp.args.StandardRestore(shapes))
            arrays = manager.restore(step, args=args)["concept"]
        except (ValueError, KeyError, OSError) as error:
            raise _unreadable(folder, step, error) from error
    return Concept(
        meta["name"],
        np.array(arrays["embeddings"]),
        np.array(arrays["boundaries"]),
        meta["metadata"],
        tuple((part, width) for part, width in meta.get("parts", ())),
    )


def _read_meta(manager: ocp.CheckpointManager, folder: epath.Path) -> dict[str, Any]:
    step = manager.latest_step()
    try:
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return manager.restore(step, args=args)["meta"]
    except (ValueError, KeyError, OSError) as error:
        raise _unreadable(folder, step, error) from error


def _absolute(path: epath.Path) -> epath.Path:
    """Orbax wants absolute paths; those of object stores are."""
    return path if "://" in os.fspath(path) else epath.Path(os.path.abspath(path))


def _unreadable(folder: epath.Path, step: int | None, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return UserError(
        f"the checkpoint {folder / str(step)} can't be read ({reason}): delete it to go on from "
        "the one before, or choose another --out"
    )
