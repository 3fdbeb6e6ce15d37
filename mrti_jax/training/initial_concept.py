# SPDX-License-Identifier: Apache-2.0
"""The concept that training starts from."""

import numpy as np
from jaxtyping import Float32

import mrti_jax
from mrti_jax.concept import Concept, equal_boundaries, initial_vectors
from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.training.config import Config


def initial_concept(sd: StableDiffusion, config: Config) -> Concept:
    """The concept of the config, with the initializer's embedding in every row."""
    wanted = config.concept
    assert wanted.name is not None and wanted.initializer is not None
    vectors = initial_vectors(
        wanted.initializer, wanted.num_vectors, sd.tokenizers, sd.text_encoder
    )
    schedule = NoiseSchedule.from_config(sd.scheduler_config)
    boundaries = equal_boundaries(wanted.num_buckets, schedule.num_train_timesteps)
    table: Float32[np.ndarray, "n v d"] = np.tile(vectors, (wanted.num_buckets, 1, 1))
    return Concept(
        wanted.name,
        table,
        boundaries,
        {
            "base_model": sd.source.name,
            "initializer": wanted.initializer,
            "learnable_property": config.data.learnable_property,
            "seed": str(config.train.seed),
            "library_version": mrti_jax.__version__,
        },
        sd.text_encoder.config.parts,
    )
