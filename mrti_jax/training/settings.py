# SPDX-License-Identifier: Apache-2.0
"""Whether a run may be resumed: its settings, and fingerprints of its inputs."""

import hashlib
from typing import Any

import numpy as np
from etils import epath

from mrti_jax.errors import UserError

# What the fingerprints among the settings are of.
_INPUTS = ("photos", "captions", "initial table")
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
        "picture_guidance_interval",
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
    held, wanted = before.get("concept.name"), settings["concept.name"]
    if held != wanted:
        raise UserError(
            f"the folder '{folder}' holds a run for <{held}>, not <{wanted}>: choose another --out "
            "(a run's config.yaml names its folder)"
        )
    free = set(_FREE)
    if settings["optimizer.schedule"] == "constant" and settings["train.steps"] >= done:
        free.add("train.steps")  # train on for longer
    differ = [key for key in settings if key not in free and before.get(key) != settings[key]]
    if not differ:
        return
    # Other settings explain other inputs, and other photos other captions.
    told = [f"{key} ({before.get(key)} -> {settings[key]})" for key in differ if key not in _INPUTS]
    what = f"settings: {', '.join(told)}" if told else differ[0]
    if differ == ["train.steps"] and settings["optimizer.schedule"] != "constant":
        what += ", with which its learning rate falls to zero"
    raise UserError(
        f"the folder '{folder}' holds a run with other {what}; set them back to resume, start over "
        "with --restart, or choose another --out"
    )
