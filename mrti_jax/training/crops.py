# SPDX-License-Identifier: Apache-2.0
"""Several squares cut out of one photo, and where in it they were."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from mrti_jax.training.images import Photo


def spread(photo: Photo, number: int) -> list[Photo]:
    """`number` squares of the photo, evenly from one end of its longer side to the other.

    1 gives the centre. Fewer if the photo has no more, like a square one.
    """
    if number == 1:
        return [photo]
    size = len(photo.pixels)
    height, width = (side - size for side in photo.whole.shape[:2])
    corners = np.rint(np.linspace((0, 0), (height, width), number)).astype(int)
    return [
        dataclasses.replace(photo, sizes=(*photo.sizes[:2], top, left, size, size))
        for top, left in np.unique(corners, axis=0).tolist()
    ]


def sizes_of(photos: Sequence[Photo], *, flip: bool) -> Int32[np.ndarray, "f m s"]:
    """The `sizes` of each photo; F = 1. With `flip`, F = 2 and the second set is that of the
    mirrored photos, whose left was the right."""
    sizes = np.asarray([photo.sizes for photo in photos], np.int32)
    if not flip:
        return sizes[None]
    mirrored = sizes.copy()
    mirrored[:, 3] = [
        photo.whole.shape[1] - photo.pixels.shape[1] - photo.sizes[3] for photo in photos
    ]
    return np.stack([sizes, mirrored])
