# SPDX-License-Identifier: Apache-2.0
"""From what a user calls a model to its files."""

import dataclasses

from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.models.stored.folder import open_folder
from mrti_jax.models.stored.model import MINI, ModelSource, StoredModel


def open_model(source: ModelSource) -> StoredModel:
    """The model that `source` names, recognised by its layout; no weights are read.

    Raises:
        UserError: there is none, or it is not a Stable Diffusion that can be used here.
    """
    stored = _open(source)
    if source.prediction_type is None:
        return stored
    scheduler_config = {**stored.scheduler_config, "prediction_type": source.prediction_type}
    return dataclasses.replace(stored, scheduler_config=scheduler_config)


def _open(source: ModelSource) -> StoredModel:
    path = mini_folder() if source.path == MINI else epath.Path(source.path)
    if not path.is_dir():
        raise UserError(f"model folder '{path}' does not exist ('mini' is the embedded one)")
    return open_folder(path, source.variant)


def mini_folder() -> epath.Path:
    """Where the embedded model is."""
    return epath.resource_path("mrti_jax") / "assets" / "mini"
