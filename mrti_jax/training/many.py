# SPDX-License-Identifier: Apache-2.0
"""A folder of folders, each with the photos of one concept, as the settings of a run for each."""

from dataclasses import dataclass, replace
from typing import Literal

from etils import epath

from mrti_jax.errors import UserError
from mrti_jax.training.config import SAMPLE, Config, resolve
from mrti_jax.training.yaml import from_mapping, read_yaml

CONCEPT_FILE = "concept.yaml"


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What `concept.yaml` beside the photos may say of them; else it is as for all others."""

    name: str | None = None
    initializer: str | None = None
    learnable_property: Literal["object", "style"] | None = None
    captions: bool | None = None


def resolve_all(config: Config) -> list[Config]:
    """The settings of each concept's run: one, or as many as `data.path` has folders.

    A concept's name is its folder's and its results go to `<out>/<name>` (`out` is "runs" if not
    given), unless its `concept.yaml` has another name. Raises UserError where a name or an
    initializer is missing.
    """
    folders = _folders(config.data.path)
    if not folders:
        return [resolve(config)]
    if config.concept.name:
        raise UserError(
            f"--concept.name {config.concept.name} is one name, but '{config.data.path}' holds "
            f"{len(folders)} folders, which name their concepts: leave it out"
        )
    return [_resolve_one(config, folder) for folder in folders]


def _folders(path: str) -> list[epath.Path]:
    """The folders in a folder without files; none, if it has files or is none."""
    if path == SAMPLE or path.startswith("tfds:"):
        return []
    folder = epath.Path(path)
    if not folder.is_dir():
        return []
    inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return inside if inside and all(entry.is_dir() for entry in inside) else []


def _resolve_one(config: Config, folder: epath.Path) -> Config:
    file = folder / CONCEPT_FILE
    given = from_mapping(_Given, read_yaml(file), str(file)) if file.exists() else _Given()
    name = given.name or folder.name
    initializer = given.initializer or config.concept.initializer
    if not initializer:
        raise UserError(
            f"<{name}> has no word to start from: say what the images show in one common word, as "
            f"`initializer: dog` in {file} or, for all concepts, --concept.initializer dog"
        )
    data = replace(
        config.data,
        path=str(folder),
        learnable_property=given.learnable_property or config.data.learnable_property,
        captions=config.data.captions if given.captions is None else given.captions,
    )
    concept = replace(config.concept, name=name, initializer=initializer)
    out = str(epath.Path(config.out or "runs") / name)
    return replace(config, data=data, concept=concept, out=out)
