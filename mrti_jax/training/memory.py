# SPDX-License-Identifier: Apache-2.0
"""Whether a train step fits in the devices' memory as it is, or must recompute blocks."""

from mrti_jax.models.memory import kept_bytes
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import bytes_on_each
from mrti_jax.training.config import Config
from mrti_jax.training.slots import examples_on_each

# On top of what the gradient keeps: what the compiler needs meanwhile, and what it can't pack.
SLACK = 1.25
# Concepts at once if the memory is unknown, as on a CPU, which gains nothing from more.
FEW = 8


def needs_remat(
    sd: StableDiffusion,
    config: Config,
    latent_shape: tuple[int, int, int],
    limit: int | None,
    num_slots: int = 1,
) -> bool:
    """What `train.remat` says, or for "auto" whether a step is estimated to need too much memory.

    Args:
        latent_shape: (h, w, c) of one example.
        limit: bytes of memory of a device; None if unknown, in which case "auto" is False.
        num_slots: slots of concepts that are trained at once.
    """
    if config.train.remat != "auto" or limit is None:
        return config.train.remat == "blocks"
    examples = examples_on_each(config.train.microbatch_size, num_slots, sd.mesh.size)
    return examples > _fitting_examples(sd, latent_shape, limit)


def fitting_concepts(
    sd: StableDiffusion, config: Config, latent_shape: tuple[int, int, int], limit: int | None
) -> int:
    """How many concepts' batches fit together, by the same estimate, without recomputing blocks; at
    least 1. The arguments are those of `needs_remat`."""
    if limit is None:
        return FEW
    examples = _fitting_examples(sd, latent_shape, limit) * sd.mesh.size
    return max(1, int(examples // config.train.microbatch_size))


def _fitting_examples(sd: StableDiffusion, latent_shape: tuple[int, int, int], limit: int) -> float:
    """Examples that fit on each device along with the weights."""
    text_length = sd.text_encoder.config.max_position_embeddings
    kept = kept_bytes(sd.unet, latent_shape, text_length, sd.mesh.size)
    return (limit - bytes_on_each(sd.params)) / (SLACK * kept)
