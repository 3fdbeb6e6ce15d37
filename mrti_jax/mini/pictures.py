# SPDX-License-Identifier: Apache-2.0
"""Scenes and their pictures in bulk, the same for the same seed."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from mrti_jax.mini.recipe import PICTURE_SIZE
from mrti_jax.mini.world import Scene, object_mask, random_scene, render


def random_scenes(count: int, seed: int) -> Iterator[Scene]:
    """`count` scenes of base training; scene i depends on (seed, i) alone."""
    for i in range(count):
        yield random_scene(np.random.default_rng((seed, i)))


def draw(count: int, seed: int) -> tuple[UInt8[np.ndarray, "n h w 3"], UInt8[np.ndarray, "n h w"]]:
    """Pictures of `random_scenes(count, seed)`, and where the object is (0 to 255)."""
    pictures = np.empty((count, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    masks = np.empty((count, PICTURE_SIZE, PICTURE_SIZE), np.uint8)
    scenes = random_scenes(count, seed)
    for i, scene in enumerate(tqdm(scenes, "drawing pictures", count, mininterval=2)):
        pictures[i] = render(scene, PICTURE_SIZE)
        masks[i] = np.round(255 * object_mask(scene, PICTURE_SIZE))
    return pictures, masks


def to_unit(pictures: UInt8[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """0..255 to [-1, 1], float32."""
    return pictures.astype(np.float32) / 127.5 - 1.0
