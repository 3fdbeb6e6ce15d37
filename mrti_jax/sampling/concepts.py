# SPDX-License-Identifier: Apache-2.0
"""The concepts that a command names by path."""

from collections.abc import Sequence

from etils import epath

from mrti_jax.concept import Concept
from mrti_jax.concept.table import FILE_NAME


def load_concepts(paths: Sequence[epath.PathLike]) -> list[Concept]:
    """Loads each path: a concept file, a training folder, or a folder of Orbax checkpoints.

    A folder's `concept.safetensors` goes before its checkpoints. Raises UserError.
    """
    return [_load(epath.Path(path)) for path in paths]


def _load(path: epath.Path) -> Concept:
    if path.is_dir() and not (path / FILE_NAME).exists():
        # Here, so that drawing with a concept file needs nothing of what training needs.
        from mrti_jax.training.checkpoint import load_concept

        return load_concept(path)
    return Concept.load(path)
