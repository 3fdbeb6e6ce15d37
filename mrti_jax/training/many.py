# SPDX-License-Identifier: Apache-2.0
"""A list of concepts, or a folder of folders of photos, as the settings of a run for each."""

from dataclasses import asdict, replace

from etils import epath

from mrti_jax.errors import UserError, warn
from mrti_jax.files import list_folder, to_path
from mrti_jax.training.config import (
    SAMPLE,
    ConceptOverrides,
    Config,
    ListedConcept,
    is_folder_path,
    resolve,
)
from mrti_jax.training.yaml import from_mapping, read_yaml

CONCEPT_FILE = "concept.yaml"


def resolve_all(config: Config) -> list[Config]:
    """The settings of each concept's run: one, or those in the list `concepts`, or one for each
    folder in `data.path`.

    A concept's name is its folder's, unless the list or its `concept.yaml` gives another; its
    results go to `<out>/<name>` (`out` is "runs" if not given). Raises UserError if a name or an
    initializer is missing.
    """
    found = _in_list(config) if config.concepts else _in_folders(config.data.path)
    if not found:
        _warn_of_unread(config.data.path)
        return [resolve(config)]
    if not config.concepts:
        from mrti_jax.training.folder import check_apart  # not before the flags are read

        check_apart(config.out or "runs", config.data.path, restart=False)
    if config.concept.name:
        place = "the list" if config.concepts else f"'{config.data.path}'"
        raise UserError(
            f"--concept.name {config.concept.name}: {place} holds concepts with names of their "
            "own, so leave it out"
        )
    common = replace(config, concepts=())
    return [_resolve_one(common, concept, place) for concept, place in found]


def _in_list(config: Config) -> list[tuple[ListedConcept, str]]:
    """Each concept, and where its settings can be given."""
    if config.data.path != SAMPLE:
        raise UserError(
            f"there are both a list of concepts and data.path '{config.data.path}': leave out one"
        )
    for index, concept in enumerate(config.concepts):
        if not concept.path:
            raise UserError(f"concepts[{index}] has no path: say where its photos are")
    return [(concept, "the list") for concept in config.concepts]


def _in_folders(path: str) -> list[tuple[ListedConcept, str]]:
    """The concepts of a folder that holds folders and no pictures; none if it is not such a folder.

    Raises UserError if there is no such folder, and if it holds pictures and folders.
    """
    if not is_folder_path(path):
        return []
    # Not before the flags are read.
    from mrti_jax.training.images import EXTENSIONS, OTHERS, check_exists

    check_exists(to_path(path))
    inside = list_folder(to_path(path))
    folders = [entry for entry in inside if entry.is_dir()]
    pictures = [entry.name for entry in inside if entry.suffix.lower() in (*EXTENSIONS, *OTHERS)]
    if folders and pictures:
        raise UserError(
            f"'{path}' holds pictures ({pictures[0]}) and folders ({folders[0].name}): move the "
            "pictures away to learn a word for each folder, or the folders to learn a single one"
        )
    return [
        (ListedConcept(**asdict(_read(folder)), path=str(folder)), str(folder / CONCEPT_FILE))
        for folder in folders
    ]


def _read(folder: epath.Path) -> ConceptOverrides:
    file = folder / CONCEPT_FILE
    return (
        from_mapping(ConceptOverrides, read_yaml(file), str(file))
        if file.exists()
        else ConceptOverrides()
    )


def _warn_of_unread(path: str) -> None:
    file = to_path(path) / CONCEPT_FILE
    if file.exists():
        warn(
            f"'{file}' is not read, since it is for folders of folders: use flags instead, such as "
            "--concept.initializer dog"
        )


def _resolve_one(config: Config, concept: ListedConcept, place: str) -> Config:
    name = concept.name or to_path(concept.path).name
    initializer = concept.initializer or config.concept.initializer
    if not initializer:
        raise UserError(
            f"<{name}> has no word to start from: say what the images show in one common word, as "
            f"`initializer: dog` in {place} or, for all concepts, --concept.initializer dog"
        )
    data = replace(
        config.data,
        path=concept.path,
        learnable_property=concept.learnable_property or config.data.learnable_property,
        captions=config.data.captions if concept.captions is None else concept.captions,
    )
    word = replace(config.concept, name=name, initializer=initializer)
    out = str(to_path(config.out or "runs") / name)
    return replace(config, data=data, concept=word, out=out)
