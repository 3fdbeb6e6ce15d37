# SPDX-License-Identifier: Apache-2.0
"""The picture world: one object of known attributes on a background, and captions of it."""

from mrti_jax.mini.world.caption import caption
from mrti_jax.mini.world.combos import HELD_OUT, THINGS
from mrti_jax.mini.world.render import object_mask, render
from mrti_jax.mini.world.scene import Scene, random_scene

__all__ = [
    "HELD_OUT",
    "THINGS",
    "Scene",
    "caption",
    "object_mask",
    "random_scene",
    "render",
]
