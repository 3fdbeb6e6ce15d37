# SPDX-License-Identifier: Apache-2.0
"""Whether a run may be resumed: its settings, and fingerprints of its inputs."""

import hashlib
from typing import Any

import numpy as np
from etils import epath

from mrti_jax.errors import UserError

# Settings that may change when a run is resumed.
_FREE = {"out", "data.path", "data.tfds_dir", "model.fsdp", "model.attention"} | {
    f"train.{name}"
    for name in (
        "accumulation",
        "at_once",
        "checkpoint_every",
        "keep",
        "remat",
        "metrics_every",
        "picture_every",
        "picture_steps",
        "picture_guidance",
        "final_grid",
    )
}


def fingerprint(*arrays: np.ndarray) -> str:
    """A short text that differs where the arrays' contents do."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def check_resumable(
    settings: dict[str, Any], folder: epath.Path, before: dict[str, Any], done: int
) -> None:
    """Raises UserError if `before`, those of the run in the folder, differ where they must not.

    `done`: the number of that run's updates.
    """
    free = set(_FREE)
    if settings["optimizer.schedule"] == "constant" and settings["train.steps"] >= done:
        free.add("train.steps")  # train on for longer
    changed = [
        f"{key} ({before.get(key)} -> {value})"
        for key, value in settings.items()
        if key not in free and before.get(key) != value
    ]
    if changed:
        raise UserError(
            f"the folder '{folder}' holds a run with other settings: {', '.join(changed)}; "
            "set them back to resume, start over with --restart, or choose another --out"
        )
