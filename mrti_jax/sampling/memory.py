# SPDX-License-Identifier: Apache-2.0
"""Whether a batch of pictures fits in the devices' memory when it is decoded at once."""

from typing import Literal, get_args

import jax

from mrti_jax.errors import check_word
from mrti_jax.models.memory import decoding_bytes
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import bytes_on_each

VAESlicing = Literal["auto", "on", "off"]


def needs_slicing(
    sd: StableDiffusion,
    choice: VAESlicing,
    height: int,
    width: int,
    batch_size: int,
    limit: int | None,
) -> bool:
    """What `choice` says, or for "auto" whether decoding is estimated to need too much memory.

    False if each device has one picture of `height` by `width` pixels, which can't be sliced.

    Args:
        batch_size: pictures on all devices together.
        limit: bytes of memory of a device; None if unknown, in which case "auto" is False.

    Raises:
        UserError: another choice.
    """
    check_word("vae_slicing", choice, get_args(VAESlicing))
    pictures = batch_size // sd.mesh.size
    if pictures == 1:
        return False
    if choice != "auto" or limit is None:
        return choice == "on"
    itemsize = jax.tree.leaves(sd.vae.params)[0].dtype.itemsize
    needed = pictures * decoding_bytes(sd.vae.config, height, width, itemsize)
    return bytes_on_each(sd.params) + needed > limit
