# SPDX-License-Identifier: Apache-2.0
"""The concepts that the benchmarks learn, kept in a folder so that each is learned once."""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from mrti_jax.concept import Concept, Nothing
from mrti_jax.mini.concepts import CONCEPTS, PHOTO_SIZE, Appearance, photos
from mrti_jax.mini.world import render
from mrti_jax.mini.world.caption import with_article
from mrti_jax.mini.world.palette import COLOURS, lab, rgb, toned
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sample import MINI_GUIDANCE, MINI_GUIDANCE_INTERVAL, MINI_STEPS
from mrti_jax.sampling import generate
from mrti_jax.sampling.guidance import in_words
from mrti_jax.training import Config, learn
from mrti_jax.training.config import ConceptConfig, OptimizerConfig, TrainConfig
from mrti_jax.training.learning_rate import with_learning_rate

NUM_PHOTOS = 4
PHOTO_SEED = 77
PICTURE_SIZE = 64
FOLDER = "runs/benchmark_concepts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """How the concepts are learned."""

    updates: int = TrainConfig.steps
    """Updates of the table."""
    batch_size: int = TrainConfig.batch_size
    """Examples of one update."""
    learning_rate: float | None = None
    """Peak learning rate; by the model's embeddings if not given."""
    sharing: float = OptimizerConfig.sharing
    """How much an example moves the rows for less noise as well, for each tenth of time; 0 to 1."""
    cache: str = FOLDER
    """Folder for what was learned; a concept found there is not learned again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn."""

    sampler: str | None = None
    """The model's own if not given."""
    sampling_steps: int = MINI_STEPS
    """Sampling steps."""
    guidance: float = MINI_GUIDANCE
    """Scale of classifier-free guidance."""
    guidance_interval: tuple[float, float] = MINI_GUIDANCE_INTERVAL
    """From and to which diffusion time it acts."""
    at_once: int = 8
    """The most pictures drawn at once."""

    @property
    def in_words(self) -> str:
        """Steps and guidance, as reports tell them."""
        return f"{self.sampling_steps} steps, {in_words(self.guidance, self.guidance_interval)}"


def chosen(count: int) -> list[Appearance]:
    """The first `count` of the world's ready-made concepts."""
    return list(CONCEPTS.values())[:count]


def concept_photos(
    appearance: Appearance, size: int = PHOTO_SIZE
) -> list[UInt8[np.ndarray, "size size 3"]]:
    """The photos of a concept, the same in every run; their scenes don't depend on `size`."""
    rng = np.random.default_rng((PHOTO_SEED, list(CONCEPTS).index(appearance.name)))
    return [render(scene, size) for scene in photos(appearance, NUM_PHOTOS, rng=rng)]


def background(appearance: Appearance) -> str:
    """Words for the one that the object stands out from most: on a red one no one sees a red
    outline, on a brown one hardly an orange one."""
    colour = rgb(appearance.combo.colour, appearance.details["colour_shade"])
    object_colours = lab(np.stack([colour, toned(colour, appearance.details["tone"])]))

    def gap(name: str) -> float:
        return float(np.linalg.norm(lab(rgb(name)) - object_colours, axis=-1).min())

    return f"on {with_article(max(COLOURS, key=gap))} background"


def checksum(sd: StableDiffusion) -> str:
    """Of the weights that a table depends on."""
    value = 0
    for leaf in jax.tree.leaves((sd.unet.params, sd.text_encoder.params)):
        value = zlib.crc32(np.asarray(leaf).tobytes(), value)
    return f"{value:08x}"


def settings_checksum(config: Config) -> str:
    """Of the settings that a table depends on."""
    settings = repr((config.concept, config.optimizer, config.train))
    return f"{zlib.crc32(settings.encode()):08x}"


def learning_config(
    sd: StableDiffusion,
    num_buckets: int,
    learning: Learning,
    num_vectors: int = ConceptConfig.num_vectors,
) -> Config:
    """The settings for a table of `num_buckets` rows, with their learning rate."""
    config = Config(
        concept=ConceptConfig(num_buckets=num_buckets, num_vectors=num_vectors),
        optimizer=OptimizerConfig(learning_rate=learning.learning_rate, sharing=learning.sharing),
        train=TrainConfig(steps=learning.updates, batch_size=learning.batch_size),
    )
    return with_learning_rate(config, sd.text_encoder)


def learned(
    sd: StableDiffusion,
    appearance: Appearance,
    num_buckets: int,
    learning: Learning,
    num_vectors: int = ConceptConfig.num_vectors,
) -> Concept:
    """The table of `num_buckets` rows learned from `concept_photos`, initialised by its shape.

    Checksums of the weights and of the settings are the file's name: with a retrained model or a
    changed recipe, it is learned again.
    """
    config = learning_config(sd, num_buckets, learning, num_vectors)
    name = f"{appearance.name}-{checksum(sd)}-{settings_checksum(config)}.safetensors"
    path = Path(learning.cache) / name
    if path.exists():
        return Concept.load(path)
    concept = learn(
        sd,
        concept_photos(appearance),
        name=appearance.name,
        initializer=appearance.combo.shape,
        config=config,
        progress=True,
    )
    concept.save(path)
    return concept


def draw(
    sd: StableDiffusion,
    prompts: Sequence[str],
    concepts: Sequence[Concept],
    seeds: Sequence[int],
    drawing: Drawing,
    nothing: Nothing = "zero",
) -> list[list[UInt8[np.ndarray, "64 64 3"]]]:
    """Pictures [prompts][seeds]."""
    flat = generate(
        sd,
        prompts,
        concepts,
        seeds=seeds,
        sampler=drawing.sampler,
        num_steps=drawing.sampling_steps,
        guidance_scale=drawing.guidance,
        guidance_interval=drawing.guidance_interval,
        batch_size=drawing.at_once,
        nothing=nothing,
        height=PICTURE_SIZE,
        width=PICTURE_SIZE,
    )
    images = [picture.image for picture in flat]
    return [images[i : i + len(seeds)] for i in range(0, len(images), len(seeds))]
