# SPDX-License-Identifier: Apache-2.0
"""`learn` and `learn_many`: photos -> concepts, from the first check to the last picture."""

import contextlib
from collections.abc import Iterator, Sequence

from etils import epath

from mrti_jax.concept import Concept
from mrti_jax.errors import UserError, warn
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import memory_limit
from mrti_jax.parallel.processes import check_same, failing_together, is_writer
from mrti_jax.sampling.size import picture_side
from mrti_jax.training.config import Config, check
from mrti_jax.training.learning_rate import with_learning_rate
from mrti_jax.training.loop import Result, train
from mrti_jax.training.memory import fitting_concepts, needs_remat
from mrti_jax.training.pictures import check_pictures
from mrti_jax.training.run import Run
from mrti_jax.training.slots import count_slots, padded
from mrti_jax.training.step import frozen_params, make_train_step
from mrti_jax.training.subject import Images, Subject


def learn(
    sd: StableDiffusion,
    images: Images,
    *,
    name: str,
    initializer: str,
    out: epath.PathLike | None = None,
    config: Config | None = None,
    restart: bool = False,
    progress: bool = False,
) -> Concept:
    """Learns the word `<name>` for what the images show; only its table is trained.

    Args:
        images: a folder, `tfds:NAME/split`, "sample", or pictures in memory (uint8 RGB or PIL).
        initializer: a one-token word for what they show, such as "dog".
        out: a folder for concept.safetensors, config.yaml, metrics.jsonl, checkpoints and pictures.
            The same call resumes where it was stopped. Nothing is written if not given.
        config: all other settings; the recipe of the embedded model if not given. What it says
            about the model, the photos' path, the name, the initializer and the folder is ignored.
        restart: start over; what is in `out` is kept, in a folder next to it.
        progress: show a bar on stderr.

    Raises:
        UserError: images, a word, a setting or a folder that can't be used.
    """
    subject = Subject(images=images, name=name, initializer=initializer, out=out)
    (result,) = learn_many(sd, [subject], config=config, restart=restart, progress=progress)
    if isinstance(result, UserError):
        raise result
    return result


def learn_many(
    sd: StableDiffusion,
    subjects: Sequence[Subject],
    *,
    config: Config | None = None,
    restart: bool = False,
    progress: bool = False,
) -> list[Result]:
    """Learns a word for each of the subjects, `train.at_once` of them at a time.

    Each gets `train.batch_size` examples in every update, and becomes what `learn` alone would make
    of it, up to rounding; all examples go through the frozen model together. A subject that is done
    makes room for one that waits.

    Args:
        config, restart, progress: as in `learn`; what a subject sets itself takes precedence.

    Returns:
        For each subject its concept or, if an update was not finite, or its folder holds another
        run or can't be written to, the UserError that says so; the others continue.

    Raises:
        UserError: images, a word, a setting or a folder that can't be used, before any training.
    """
    config = config or Config()
    check(config)
    check_subjects(subjects, restart=restart)
    config = with_learning_rate(config, sd.text_encoder)
    slots = plan_slots(sd, config, len(subjects))
    if is_writer():
        _warn_of_empty_places(config, slots, sd.mesh.size)
        _warn_of_warm_up(config)
    draws = config.train.picture_every or config.train.final_grid
    if draws and any(subject.out is not None for subject in subjects):
        check_pictures(sd, config.train.picture_steps)
    size = picture_side(sd, "data.size", config.data.size)
    runs = [_prepare(sd, subject, config, size, alone=len(subjects) == 1) for subject in subjects]
    limit = memory_limit(sd.mesh)
    remat = needs_remat(sd, config, sd.vae.config.latent_shape(size, size), limit, slots)
    return train(
        make_train_step(sd, config, remat=remat),
        frozen_params(sd),
        runs,
        slots,
        sd.mesh,
        config.train,
        restart=restart,
        progress=progress,
    )


def check_subjects(subjects: Sequence[Subject], *, restart: bool) -> None:
    """Raises UserError for subjects that no model could learn words for, or whose photos `restart`
    would move away."""
    if not subjects:
        raise UserError("there is no subject to learn a word for")
    names = [subject.name for subject in subjects]
    check_same(names, "the concepts")
    for name in names:
        same = [subject.path or "pictures" for subject in subjects if subject.name == name]
        if len(same) > 1:
            raise UserError(
                f"each concept needs a name of its own, but {' and '.join(same)} are both <{name}>"
            )
    for subject in subjects:
        with _naming(subject, alone=len(subjects) == 1):
            subject.check(restart=restart)


def plan_slots(sd: StableDiffusion, config: Config, num_concepts: int) -> int:
    """How many of the concepts are trained at a time."""
    if num_concepts == 1:
        return 1
    at_once = config.train.at_once
    if at_once is None:
        size = picture_side(sd, "data.size", config.data.size)
        latent_shape = sd.vae.config.latent_shape(size, size)
        limit = memory_limit(sd.mesh)
        at_once = fitting_concepts(sd, config, latent_shape, limit)
    return count_slots(num_concepts, at_once, config.train.microbatch_size, sd.mesh.size)


def _warn_of_empty_places(config: Config, num_slots: int, num_devices: int) -> None:
    """Warns if some devices have less to do than others in every update."""
    wanted = config.train.microbatch_size
    places = padded(wanted, num_slots, num_devices)
    if places > wanted:
        warn(
            f"the batch does not divide evenly over {num_devices} devices: "
            f"{num_slots * (places - wanted)} of {num_slots * places} places stay empty (slower, "
            f"same result); --train.batch-size {places * config.train.accumulation} would fill them"
        )


def _warn_of_warm_up(config: Config) -> None:
    warm_up, steps = config.optimizer.warmup_steps, config.train.steps
    if warm_up >= steps:
        warn(
            f"the learning rate rises for {warm_up} updates, and there are only {steps}: it won't "
            "reach its peak (--optimizer.warmup-steps 0 starts with it)"
        )


def _prepare(
    sd: StableDiffusion, subject: Subject, config: Config, size: int, *, alone: bool
) -> Run:
    with _naming(subject, alone=alone):
        return Run(sd, subject, config, size)


@contextlib.contextmanager
def _naming(subject: Subject, *, alone: bool) -> Iterator[None]:
    """Turns a UserError within it into one of all processes, which names the subject if there are
    several."""
    try:
        with failing_together():
            yield
    except UserError as error:
        raise error if alone else UserError(f"<{subject.name}>: {error}") from None
