# SPDX-License-Identifier: Apache-2.0
"""The settings of a training run; their defaults are the recipe of the embedded model."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from etils import epath

from mrti_jax.errors import UserError, check_interval
from mrti_jax.files import to_path
from mrti_jax.models.choices import AttentionChoice
from mrti_jax.models.source import ModelSource
from mrti_jax.training.yaml import from_mapping, read_yaml

SAMPLE = "sample"
TFDS_PREFIX = "tfds:"
SAMPLE_NAME, SAMPLE_INITIALIZER = "jane", "star"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelSource):
    """The frozen base model."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the frozen weights; auto: float32 on a CPU, bfloat16 elsewhere."""
    fsdp: int | None = None
    """How many devices share the weights, each holding a part; if not given, as few as can hold
    them, usually 1."""
    attention: AttentionChoice = "auto"
    """How attention is computed. auto: cuDNN's flash attention on NVIDIA GPUs in bfloat16, the
    Pallas one (splash) on TPUs, elsewhere XLA's in chunks where they save much memory."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The photos of the concept."""

    path: str = SAMPLE
    """A folder of images, `tfds:NAME/split`, or `sample`, the photos that come with the project; or
    a folder of such folders, each a concept named after its folder."""
    learnable_property: Literal["object", "style"] = "object"
    """Which templates to train with: "a photo of a <name>" or "a painting in the style of <name>".
    """
    captions: bool = False
    """Use the captions (one per line) in `photo.txt` for `photo.png`, with `<name>` or `{}` where
    the word goes. Photos without any get the templates."""
    size: int | None = None
    """Side of the square that photos are cropped to, in pixels; the model's own if not given."""
    crops: int = 1
    """Squares to cut out of each photo, evenly along its longer side, each a picture to train on;
    1: the centre."""
    flip: bool = False
    """Mirror half of the examples. Not for text, or for anything whose left and right differ."""
    tfds_dir: str | None = None
    """Where TFDS data sets are; TFDS's own default if not given."""


@dataclass(frozen=True, kw_only=True)
class ConceptConfig:
    """The word that is learned."""

    name: str | None = None
    """The word's name: prompts call it `<name>`."""
    initializer: str | None = None
    """A one-token word for what the photos show, such as `dog`; training starts from it."""
    num_buckets: int = 10
    """Rows of the table; 1 is ordinary Textual Inversion."""
    num_vectors: int = 1
    """Token positions that the word takes: the first starts from the initializer, the others from
    the mean of all token embeddings."""


@dataclass(frozen=True, kw_only=True)
class ConceptOverrides:
    """Settings of one of many concepts; those not given are as for all others."""

    name: str | None = None
    """The word's name; that of its folder if not given."""
    initializer: str | None = None
    """The word that training starts from."""
    learnable_property: Literal["object", "style"] | None = None
    """Which templates to train with."""
    captions: bool | None = None
    """Use the photos' own captions."""


@dataclass(frozen=True, kw_only=True)
class ListedConcept(ConceptOverrides):
    """One of many concepts in a list."""

    path: str = ""
    """Its photos: a folder of images, or `tfds:NAME/split`."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW on the table."""

    learning_rate: float | None = None
    """The peak: about how far each element moves in an update, whatever the batch size. If not
    given, 0.3 times the root mean square of the model's token embeddings, divided by num_vectors:
    3.1e-2 for the embedded model, 4e-3 for Stable Diffusion 1.x, twice the paper's rate."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """What follows the warm-up; cosine and linear fall to 0 at the last step."""
    warmup_steps: int = 10
    """Updates in which the learning rate rises to its peak."""
    weight_decay: float = 0.0
    """Decoupled weight decay per update, times the learning rate."""
    beta1: float = 0.9
    """Decay of the mean gradient."""
    beta2: float = 0.999
    """Decay of the mean squared gradient."""
    eps: float = 1e-8
    """Added to the root of the mean squared gradient."""
    dense: bool = False
    """Update every row at every step, as PyTorch's AdamW does: rows that no example moves then move
    by their old momentum and shrink by weight decay. Without it, they stand still."""
    sharing: float = 0.5
    """An example moves the row of its bucket and, less, those of buckets with less noise: by this
    factor for each tenth of diffusion time between them. So each row learns from more examples,
    and the detail that only the fine ones see stays out of the coarse ones. 0: only the row of its
    bucket, as in the paper; 1: all of them alike."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how to train."""

    steps: int = 700
    """Updates of the table. With a constant schedule a run can be continued with more."""
    batch_size: int = 8
    """Examples of one update, over all devices. Each trains the row of its bucket, and by
    optimizer.sharing those for less noise."""
    at_once: int | None = None
    """How many concepts to learn at a time, each with its own batch in every update; the others
    wait. If not given, as many as are estimated to fit (8 on a CPU). Does not change the result."""
    accumulation: int = 1
    """Split each batch into this many parts, processed in turn, to save memory. The result is the
    same up to rounding."""
    remat: Literal["auto", "none", "blocks"] = "auto"
    """What to recompute for the gradient, to save memory. auto: the U-Net's blocks, if the batch is
    estimated not to fit otherwise."""
    timesteps: Literal["uniform", "stratified"] = "stratified"
    """How an example's diffusion time is drawn. stratified: evenly spread over every stretch of
    examples, so that each row gets its share; uniform: independently, as in the paper."""
    weighting: Literal["uniform", "min_snr"] = "uniform"
    """How an example's squared error is weighted by its time. min_snr: the error of the clean
    latents, times the signal-to-noise ratio or min_snr_gamma, whichever is less."""
    min_snr_gamma: float = 5.0
    """Upper limit of the signal-to-noise ratio in min_snr."""
    seed: int = 0
    """Everything random follows from it."""
    checkpoint_every: int = 200
    """Updates between checkpoints; there is always one at the end."""
    keep: int = 2
    """How many checkpoints are kept, the newest ones."""
    metrics_every: int = 20
    """Updates between lines of metrics.jsonl."""
    picture_every: int = 0
    """Updates between grids of pictures drawn with the concept so far; 0: none."""
    picture_steps: int = 30
    """Sampling steps of those pictures and of the final grid."""
    picture_guidance: float = 3.0
    """Their scale of classifier-free guidance."""
    picture_guidance_interval: tuple[float, float] = (0.2, 1.0)
    """From and to which diffusion time it acts, 0 is no noise and 1 pure noise."""
    final_grid: bool = True
    """Draw the labelled grid at the end."""

    @property
    def microbatch_size(self) -> int:
        """Examples that are processed at once."""
        return self.batch_size // self.accumulation


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    concept: ConceptConfig = field(default_factory=ConceptConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    concepts: tuple[ListedConcept, ...] = ()
    """Concepts to learn at once, instead of one in `data.path`."""
    out: str | None = None
    """Folder for the results; `runs/<name>` if not given."""


def is_folder_path(path: str) -> bool:
    """Whether `data.path` is that of a folder (or an image file), not of a data set."""
    return path != SAMPLE and not path.startswith(TFDS_PREFIX)


def read_config(path: epath.PathLike) -> Config:
    """The settings in a YAML file; what it leaves out has its default.

    Raises UserError for a missing or malformed file, an unknown key (naming the nearest known one)
    and a value of the wrong type.
    """
    return from_mapping(Config, read_yaml(to_path(path)), str(path))


def resolve(config: Config) -> Config:
    """Fills in the word's name and initializer (if it is the sample's) and the output folder.

    Raises UserError if they are not given.
    """
    name, initializer = config.concept.name, config.concept.initializer
    if config.data.path == SAMPLE:
        name, initializer = name or SAMPLE_NAME, initializer or SAMPLE_INITIALIZER
    if not name:
        raise UserError("the new word has no name: give one, such as --concept.name rex")
    if not initializer:
        raise UserError(
            "there is no word to start from: say what the images show in one common word, such as "
            "--concept.initializer dog"
        )
    concept = dataclasses.replace(config.concept, name=name, initializer=initializer)
    return dataclasses.replace(config, concept=concept, out=config.out or f"runs/{name}")


def check(config: Config) -> None:
    """Raises UserError for values that no run can use, before anything heavy is done."""
    from_mapping(Config, dataclasses.asdict(config), "config")  # checks their types
    at_least = {
        "data.crops": 1,
        "concept.num_buckets": 1,
        "concept.num_vectors": 1,
        "train.steps": 1,
        "train.batch_size": 1,
        "train.accumulation": 1,
        "train.seed": 0,
        "train.checkpoint_every": 1,
        "train.keep": 1,
        "train.metrics_every": 1,
        "train.picture_every": 0,
        "train.picture_steps": 1,
        "optimizer.warmup_steps": 0,
        "optimizer.weight_decay": 0,
    }
    for key, least in at_least.items():
        value = _get(config, key)
        if not value >= least:
            raise UserError(f"{key} is {value}, but must be at least {least}")
    if config.train.at_once is not None and config.train.at_once < 1:
        raise UserError(f"train.at_once is {config.train.at_once}, but must be at least 1")
    for key in ("optimizer.learning_rate", "optimizer.eps", "train.min_snr_gamma"):
        number = _get(config, key)
        if number is not None and not number > 0:
            raise UserError(f"{key} is {number}, but must be above 0")
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key} is {value}, but must be a finite number")
    for key in ("optimizer.beta1", "optimizer.beta2"):
        if not 0 <= _get(config, key) < 1:
            raise UserError(f"{key} is {_get(config, key)}, but must be at least 0 and below 1")
    check_interval("train.picture_guidance_interval", config.train.picture_guidance_interval)
    if not 0 <= config.optimizer.sharing <= 1:
        raise UserError(f"optimizer.sharing is {config.optimizer.sharing}, but must be 0 to 1")
    if (
        config.train.weighting == "uniform"
        and config.train.min_snr_gamma != TrainConfig.min_snr_gamma
    ):
        raise UserError("train.min_snr_gamma has no effect without train.weighting min_snr")
    if config.train.seed >= 2**32:
        raise UserError(f"train.seed is {config.train.seed}, but must be below 2**32")
    if config.train.steps * config.train.batch_size >= 2**31:
        raise UserError(
            f"train.steps {config.train.steps} of train.batch_size {config.train.batch_size} are "
            "2**31 examples or more: use fewer of either"
        )
    if config.train.batch_size % config.train.accumulation:
        raise UserError(
            f"train.batch_size {config.train.batch_size} does not divide into "
            f"{config.train.accumulation} equal parts: train.accumulation must divide it"
        )


def flatten(config: Config) -> dict[str, object]:
    """Dotted names and values of all settings of one concept's run."""
    flat: dict[str, object] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name != "concepts":
            flat[name] = value
    return flat


def _get(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
