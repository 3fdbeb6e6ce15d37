# SPDX-License-Identifier: Apache-2.0
"""Proper names of the world: words that carry an object's whole appearance, details included.

A large text-to-image model has learned thousands of names, and a learned word says in their space
what no common word says. Here the embedding of a name is a linear map of its bearer's appearance,
learned along with the U-Net, so every appearance has a name. The map is stored with the model, in
`names.safetensors`, for further training.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int
from safetensors.numpy import save

from mrti_jax.errors import UserError
from mrti_jax.files import write_whole
from mrti_jax.mini.world import Scene
from mrti_jax.mini.world.palette import COLOURS
from mrti_jax.mini.world.shapes import SHAPES
from mrti_jax.mini.world.textures import TEXTURES
from mrti_jax.models.stored.find import local_path
from mrti_jax.models.stored.safetensors_file import read_safetensors

NAME = "name"
"""Stands for a name in captions: one token, used in no other captions."""

FILE = "names.safetensors"

_KINDS = (*SHAPES, *TEXTURES, *COLOURS)
# Shade, tone, aspect, angle, period, duty, and phase as cosine and sine.
_NUM_DETAILS = 8
_NUM_VALUES = len(_KINDS) + _NUM_DETAILS
# The squares of a textured appearance's values add up to about this.
_SQUARES = 10


def appearance_features(scenes: Sequence[Scene]) -> Float[np.ndarray, "n f"]:
    """What names say, float32: 1 for each word of the appearance, and details of about -1 to 1."""
    return np.stack([_appearance(scene) for scene in scenes])


def _appearance(scene: Scene) -> Float[np.ndarray, " f"]:
    details = np.zeros(_NUM_DETAILS)
    # Each divided by about its standard deviation in the world.
    details[0] = scene.colour_shade / 0.6
    details[2] = np.log(scene.aspect) / 0.15
    if scene.texture != "plain":
        turn = 2 * np.pi * scene.phase
        details[1] = scene.tone / 0.45
        details[3] = scene.angle / 0.2
        details[4] = (scene.period - 10.5) / 0.9
        details[5] = (scene.duty - 0.5) / 0.12
        details[6:] = np.cos(turn), np.sin(turn)
    return np.array([*(kind in scene.combo for kind in _KINDS), *details], np.float32)


def initial_map(embeddings: Float[Array, "v d"], seed: int = 0) -> Float[Array, "f d"]:
    """A random map to names whose embeddings are about as large as other words' `embeddings`."""
    values = jax.random.normal(jax.random.key(seed), (_NUM_VALUES, embeddings.shape[1]))
    return jnp.std(embeddings) * values / np.sqrt(_SQUARES)


def with_names(
    embedded: Float[Array, "b l d"],
    ids: Int[Array, "b l"],
    name_id: int,
    names: Float[Array, "b d"],
) -> Float[Array, "b l d"]:
    """Embedded captions, with each example's name in place of `NAME`."""
    return jnp.where((ids == name_id)[..., None], names[:, None], embedded)


def save_map(names: Float[Array | np.ndarray, "f d"], folder: epath.PathLike) -> None:
    """Writes the map into a model's folder, in float16 as the model's own weights."""
    write_whole(epath.Path(folder) / FILE, save({"names": np.asarray(names, np.float16)}))


def load_map(model: str) -> Float[np.ndarray, "f d"]:
    """The map of the model in a folder, or of the embedded one ("mini"), float32.

    Raises UserError for a file that is missing or damaged.
    """
    path = local_path(model) / FILE
    tensors, _ = read_safetensors(path)
    if "names" not in tensors or tensors["names"].shape[:1] != (_NUM_VALUES,):
        raise UserError(f"{path} holds no map from {_NUM_VALUES} values to names")
    return tensors["names"].read().astype(np.float32)
