# SPDX-License-Identifier: Apache-2.0
"""The training of one concept: what it starts from, how far it is, and what it leaves behind."""

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mrti_jax.concept import Concept
from mrti_jax.concept.table import FILE_NAME
from mrti_jax.errors import UserError, warn
from mrti_jax.files import to_path
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import place, replicated
from mrti_jax.parallel.processes import (
    as_writer,
    check_same,
    failing_together,
    gather,
    is_writer,
)
from mrti_jax.training.checkpoint import Checkpoints
from mrti_jax.training.config import Config, flatten
from mrti_jax.training.fault import describe_fault
from mrti_jax.training.folder import held, move_aside, writable
from mrti_jax.training.idle_rows import warn_of_idle_rows
from mrti_jax.training.initial_concept import initial_concept
from mrti_jax.training.learning_rate import learning_rates
from mrti_jax.training.metrics import FILE_NAME as METRICS_NAME
from mrti_jax.training.metrics import Metrics
from mrti_jax.training.pictures import (
    FINAL_NAME,
    draw_final,
    draw_progress,
    progress_path,
)
from mrti_jax.training.settings import check_resumable, fingerprint
from mrti_jax.training.step import Data, State, initial_state
from mrti_jax.training.subject import Subject
from mrti_jax.training.training_set import read_training_set
from mrti_jax.training.yaml import is_ours, write_yaml

CONFIG_NAME = "config.yaml"


class Run:
    """One concept's training. `done` counts its updates, `saved` those of its last checkpoint;
    `metrics` is set once it is resumed."""

    done: int
    saved: int
    metrics: Metrics

    def __init__(self, sd: StableDiffusion, subject: Subject, config: Config, size: int):
        """Reads and checks all its inputs; `size`: pixels along a side of the photos.

        Raises UserError for images, a word or a folder that can't be used.
        """
        self.config = _resolved(sd, subject, config)
        self.name = subject.name
        self._sd = sd
        self._size = size
        self._start = initial_concept(sd, self.config)
        self._folder = None if subject.out is None else writable(to_path(subject.out))
        self._training_set = read_training_set(sd, subject, self.config, size)
        is_xl = sd.unet.config.pooled_dim is not None
        self._settings = flatten(self.config) | self._training_set.fingerprints(sized=is_xl)
        self._settings |= {"initial table": fingerprint(self._start.embeddings)}
        check_same(_to_compare(self._settings), f"the settings or photos of <{self.name}>")
        self._rates = learning_rates(self.config.optimizer, self.config.train.steps)
        self._files = contextlib.ExitStack()
        self._checkpoints: Checkpoints | None = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    @property
    def has_folder(self) -> bool:
        """Whether anything is written."""
        return self._folder is not None

    @property
    def extent(self) -> tuple[int, int]:
        """Numbers of photos and of captions."""
        return self._training_set.extent

    def start_over(self) -> None:
        """Keeps what is in the folder under another name.

        Raises UserError if it can't be renamed, or another run is at work there.
        """
        if self._folder is None:
            return
        with held(self._folder):
            move_aside(self._folder)

    def resume(self) -> State:
        """The state where an earlier run stopped, or the initial one, on every device.

        Raises UserError if the folder holds a run with other settings, a damaged one, or a concept
        that no run there has written.
        """
        state = initial_state(self._start.embeddings, self.config.optimizer)
        state = place(state, replicated(self._sd.mesh))
        self.done = self.saved = 0
        if self._folder is not None:
            self._files.enter_context(held(self._folder))
            checkpoints = Checkpoints(self._folder, self.name, self.config.train.keep)
            self._checkpoints = self._files.enter_context(checkpoints)
            self.done, state = checkpoints.resume(
                state, functools.partial(check_resumable, self._settings, self._folder)
            )
            self.saved = self.done
        with failing_together():
            self._check_nothing_is_lost()
            written = self._folder if is_writer() else None
            if written is not None:
                write_yaml(self.config, written / CONFIG_NAME)
                if not self.is_last:  # from an earlier end
                    (written / FINAL_NAME).unlink(missing_ok=True)
            self.metrics = Metrics(
                None if written is None else written / METRICS_NAME,
                self.name,
                self._start.embeddings,
                self._rates,
                self.config.train.batch_size,
                self.done,
            )
        return state

    def data(self, num_photos: int, num_captions: int) -> Data:
        """What the step trains on, padded to these numbers of photos and captions."""
        return self._training_set.encode(self._sd, num_photos, num_captions, self.config.train)

    def save(self, state: State) -> None:
        """Writes the metrics, a checkpoint, in the background, and the concept file. Raises
        UserError if they can't be written."""
        self.metrics.flush()
        concept = self._concept(state)
        if self._checkpoints is not None:
            self._checkpoints.save(self.done, state, concept, self._settings)
            if not self.saved:  # a concept file without a checkpoint would be taken for another's
                self._checkpoints.wait()
        self._save_concept(concept)
        self.saved = self.done
        if self.metrics.problem is not None:
            raise self.metrics.problem

    @property
    def rate(self) -> np.float32:
        """The learning rate of the next update."""
        return self._rates[self.done]

    @property
    def is_last(self) -> bool:
        """Whether all updates are done."""
        return self.done == self.config.train.steps

    @property
    def draws_now(self) -> bool:
        """Whether it is time for pictures of the concept so far."""
        every = self.config.train.picture_every
        is_time = every > 0 and self.done > 0 and self.done % every == 0
        return self._folder is not None and is_time and not self.is_last

    @property
    def has_drawn(self) -> bool:
        """Whether all processes see the pictures of the concept so far."""
        assert self._folder is not None
        return all(gather(progress_path(self._folder, self.done).exists()))

    def draw(self, state: State, heed_stop: Callable[[], None]) -> None:
        """Writes a sheet of pictures drawn with the concept so far; `heed_stop`: as in `finish`."""
        if self._folder is not None:
            concept = self._concept(state)
            draw_progress(
                self._sd, concept, self.done, self._size, self._folder, self.config, heed_stop
            )

    def close(self) -> None:
        """Waits until the last checkpoint is on disk, and releases the folder to other runs."""
        self._files.close()

    def finish(self, state: State, heed_stop: Callable[[], None], *, progress: bool) -> Concept:
        """Does what remains after the last update.

        `heed_stop` is called between pictures, in all processes; if it raises, the rest is not
        drawn.
        """
        if self._checkpoints is not None:
            self._checkpoints.wait()
        concept = self._concept(state)
        warn_of_idle_rows(state, self._start)
        folder = self._folder
        if folder is not None and self.config.train.final_grid:
            drawn = all(gather((folder / FINAL_NAME).exists()))  # by a run that ended before
            if not drawn:
                draw_final(
                    self._sd,
                    concept,
                    self._training_set.shown,
                    folder,
                    self.config,
                    heed_stop,
                    progress=progress,
                )
        self.close()
        return concept

    def finish_again(self, state: State, heed_stop: Callable[[], None]) -> Concept:
        """Writes what a stop after the last checkpoint left out; `heed_stop`: as in `finish`."""
        self._save_concept(self._concept(state))
        warn(
            f"the run in '{self._folder}' has already done its {self.done} steps: nothing is left "
            "to train (--restart starts over)"
        )
        return self.finish(state, heed_stop, progress=False)

    def fail(self, state: State) -> UserError:
        """The error for an update that is not finite; writes the table before it."""
        fault = describe_fault(
            state, self._training_set, self.config.train, self._start.num_train_timesteps
        )
        self.metrics.flush()
        saved, again = "", "start over with"
        if self._folder is not None:
            again = "start over with --restart and"
            try:
                self._save_concept(self._concept(state))
                saved = f"; the table before it is saved in {self._folder / FILE_NAME}"
            except UserError as error:
                saved = f"; the table before it is not saved: {error}"
        exact = self._sd.dtype == np.float32
        precision = "" if exact else ", or in float32 (--model.dtype)"
        return UserError(f"{fault}{saved}: {again} a lower --optimizer.learning-rate{precision}")

    def _check_nothing_is_lost(self) -> None:
        """Raises UserError for files in the folder that are not of a run to go on with, and that
        this one would write over."""
        folder = self._folder
        if folder is None or self.done:
            return
        for name in (FILE_NAME, FINAL_NAME, CONFIG_NAME):
            path = folder / name
            if path.exists() and not (name == CONFIG_NAME and is_ours(path)):
                raise UserError(
                    f"the folder '{folder}' holds {name}, but no checkpoint to go on from: choose "
                    "another --out, or keep the folder under another name with --restart"
                )

    def _concept(self, state: State) -> Concept:
        metadata = self._start.metadata | {
            "steps": str(int(state["step"])),
            "planned_steps": str(self.config.train.steps),
        }
        return replace(self._start, embeddings=np.array(state["table"]), metadata=metadata)

    def _save_concept(self, concept: Concept) -> None:
        folder = self._folder
        if folder is not None:
            as_writer(lambda: concept.save(folder / FILE_NAME))


def _resolved(sd: StableDiffusion, subject: Subject, config: Config) -> Config:
    """The settings of this one concept, as they are written to its folder."""
    data = config.data
    return replace(
        config,
        model=replace(
            config.model,
            path=sd.source.path,
            dtype=sd.dtype.name,  # type: ignore[arg-type]
            **sd.source.options,
        ),
        data=replace(
            data,
            path=subject.path or "pictures in memory",
            learnable_property=subject.learnable_property or data.learnable_property,
            captions=data.captions if subject.captions is None else subject.captions,
        ),
        concept=replace(config.concept, name=subject.name, initializer=subject.initializer),
        concepts=(),
        out=None if subject.out is None else os.fspath(subject.out),
    )


def _to_compare(settings: dict[str, Any]) -> list[str]:
    """What must be the same in all processes; each may have a path of its own to the same files."""
    paths = ("out", "data.path", "data.tfds_dir", "model.path", "model.tokenizer")
    return [f"{key} {value}" for key, value in settings.items() if key not in paths]
