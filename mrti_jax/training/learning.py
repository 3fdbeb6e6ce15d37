# SPDX-License-Identifier: Apache-2.0
"""`learn`: photos of something -> a concept, from the first check to the last picture."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8
from PIL import Image

import mrti_jax
from mrti_jax.concept import Concept, equal_boundaries, initializer_row
from mrti_jax.concept.prompt import check_name
from mrti_jax.concept.table import FILE_NAME
from mrti_jax.diffusion import NoiseSchedule
from mrti_jax.errors import UserError, warn
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import fetch, memory_limit, place, replicated
from mrti_jax.parallel.processes import gather, is_writer
from mrti_jax.training.checkpoint import Checkpoints
from mrti_jax.training.config import SAMPLE, Config, check, check_devices, flatten
from mrti_jax.training.fault import describe_fault
from mrti_jax.training.images import Photo, from_arrays, read_folder
from mrti_jax.training.latents import encode_moments
from mrti_jax.training.loop import train
from mrti_jax.training.memory import needs_remat
from mrti_jax.training.metrics import FILE_NAME as METRICS_NAME
from mrti_jax.training.metrics import Metrics
from mrti_jax.training.optim import learning_rate
from mrti_jax.training.pictures import FINAL_NAME, draw_final, draw_progress
from mrti_jax.training.prompts import tokenize_captions
from mrti_jax.training.restart import move_aside
from mrti_jax.training.step import Data, State, frozen_params, initial_state, make_train_step
from mrti_jax.training.tfds_source import PREFIX, read_tfds
from mrti_jax.training.yaml import write_yaml

CONFIG_NAME = "config.yaml"
Images: TypeAlias = epath.PathLike | Sequence[UInt8[np.ndarray, "_ _ 3"] | Image.Image]

# Settings that a run may be continued with other values of.
_FREE = {"out", "data.path", "data.tfds_dir", "model.fsdp"} | {
    f"train.{name}"
    for name in (
        "checkpoint_every",
        "keep",
        "remat",
        "metrics_every",
        "picture_every",
        "picture_steps",
        "picture_guidance",
        "final_grid",
    )
}


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
            The same call goes on where it was stopped. Nothing is written if not given.
        config: all other settings; the recipe of the embedded model if not given. What it says of
            the model, the photos' path, the name, the initializer and the folder is not used.
        restart: begin anew; what is in `out` is kept, in a folder beside it.
        progress: show a bar on stderr.

    Raises:
        UserError: images, a word, a setting or a folder that can't be used.
    """
    config = config or Config()
    config = replace(
        config,
        model=replace(config.model, path=sd.source.path, **sd.source.options),
        data=replace(config.data, path=str(images) if _is_path(images) else "pictures in memory"),
        concept=replace(config.concept, name=name, initializer=initializer),
        out=None if out is None else os.fspath(out),
    )

    # What can go wrong, first.
    check(config)
    check_name(name)
    check_devices(config, sd.mesh.devices.size)
    size = _training_size(sd, config.data.size)
    start = _initial_concept(sd, config, name, initializer)
    folder = None if out is None else _writable(epath.Path(out))
    photos = _read(images, size, config)
    prompts = tokenize_captions(
        photos,
        config.data.learnable_property,
        config.concept.num_vectors,
        sd.tokenizers,
        captions=config.data.captions,
    )

    pixels = np.stack([photo.pixels for photo in photos])
    _warn_of_copies(pixels)
    settings = flatten(config) | {
        "photos": _fingerprint(pixels),
        "captions": _fingerprint(*prompts),
        "initial table": _fingerprint(start.embeddings),
    }

    def draw_pictures(step: int, concept: Concept) -> None:
        if folder is not None:
            draw_progress(sd, concept, step, size, folder, config)

    with contextlib.ExitStack() as stack:
        # Where an earlier run stopped, if there was one.
        state = initial_state(start.embeddings, config.optimizer, sd.mesh)
        checkpoints, resumed = None, 0
        if folder is not None:
            if restart:
                _move_aside(folder)
            checkpoints = stack.enter_context(Checkpoints(folder, config.train.keep))
            resumed, state = checkpoints.resume(
                state, lambda before, done: _check_same_run(before, settings, done, folder)
            )
            if is_writer():
                write_yaml(config, folder / CONFIG_NAME)
            if resumed == config.train.steps:
                return _finished_before(sd, _concept(start, state), pixels, folder, config)

        moments = encode_moments(sd.vae, pixels, sd.mesh, flip=config.data.flip)
        _check_moments(moments, photos)
        height, width, channels = moments.shape[2:]
        limit = memory_limit(sd.mesh.local_devices[0])
        remat = needs_remat(sd, config, (height, width, channels // 2), limit)
        sizes = np.asarray([photo.sizes for photo in photos], np.int32)
        on_host = (moments, sizes, *prompts, np.uint32(config.train.seed))
        data = Data(*place(on_host, replicated(sd.mesh)))
        names = [photo.name for photo in photos]
        state = train(
            make_train_step(sd, config, remat=remat),
            state,
            frozen_params(sd),
            data,
            config.train,
            metrics=Metrics(
                folder / METRICS_NAME if folder is not None and is_writer() else None,
                start.embeddings,
                learning_rate(config.optimizer, config.train.steps),
                config.train.batch_size,
                resumed,
            ),
            concept_of=lambda state: _concept(start, state),
            out=folder,
            checkpoints=checkpoints,
            settings=settings,
            describe_fault=lambda state: describe_fault(
                state, data, config.train, names, start.num_train_timesteps
            ),
            draw_pictures=draw_pictures,
            title=f"<{name}>" if progress else None,
        )
    concept = _concept(start, state)
    _warn_of_idle_rows(state, start)
    if folder is not None and config.train.final_grid:
        draw_final(sd, concept, pixels, folder, config, progress=progress)
    return concept


def _concept(start: Concept, state: State) -> Concept:
    """The concept at a state, in a copy: the next step reuses the state's memory."""
    metadata = start.metadata | {"steps": str(int(state["step"]))}
    return replace(start, embeddings=np.array(state["table"]), metadata=metadata)


def _finished_before(
    sd: StableDiffusion,
    concept: Concept,
    pixels: UInt8[np.ndarray, "m H W 3"],
    folder: epath.Path,
    config: Config,
) -> Concept:
    """Writes what a kill after the last checkpoint has left out."""
    if is_writer():
        concept.save(folder / FILE_NAME)
    warn(
        f"the run in '{folder}' has done its {config.train.steps} steps already: nothing is "
        "trained (--restart begins anew)"
    )
    if config.train.final_grid and not (folder / FINAL_NAME).exists():
        draw_final(sd, concept, pixels, folder, config, progress=False)
    return concept


def _move_aside(folder: epath.Path) -> None:
    moved = move_aside(folder) if is_writer() else None
    gather(None)  # the others wait
    if moved is not None:
        warn(f"the run that was in '{folder}' is now in '{moved}'")


def _training_size(sd: StableDiffusion, size: int | None) -> int:
    """Pixels along a side, checked."""
    latent, factor = sd.unet.config, sd.vae.config.downscale
    if latent.in_channels != sd.vae.config.latent_channels:
        raise UserError(
            f"model '{sd.name}' takes {latent.in_channels} channels instead of "
            f"{sd.vae.config.latent_channels}: it edits pictures (inpainting), use a base model"
        )
    size = latent.sample_size * factor if size is None else size
    if size < factor or size % factor:
        raise UserError(
            f"data.size {size} is not a multiple of {factor}, this model's pixels per latent: take "
            f"{max(size // factor, 1) * factor} or {(size // factor + 1) * factor}"
        )
    return size


def _initial_concept(sd: StableDiffusion, config: Config, name: str, initializer: str) -> Concept:
    """Every row and vector starts as the initializer's token embedding."""
    wanted = config.concept
    row = fetch(initializer_row(initializer, sd.tokenizers, sd.text_encoder))
    schedule = NoiseSchedule.from_config(sd.scheduler_config)
    boundaries = equal_boundaries(wanted.num_buckets, schedule.num_train_timesteps)
    table: Float32[np.ndarray, "n v d"] = np.tile(row, (wanted.num_buckets, wanted.num_vectors, 1))
    return Concept(
        name,
        table,
        boundaries,
        {
            "base_model": sd.name,
            "initializer": initializer,
            "learnable_property": config.data.learnable_property,
            "seed": str(config.train.seed),
            "library_version": mrti_jax.__version__,
        },
        sd.text_encoder.config.parts,
    )


def _read(images: Images, size: int, config: Config) -> list[Photo]:
    if not _is_path(images):
        return from_arrays(images, size)
    path = str(images)
    if path.startswith(PREFIX):
        return read_tfds(path, size, data_dir=config.data.tfds_dir)
    if path == SAMPLE:
        path = str(epath.resource_path("mrti_jax") / "assets" / "concept")
    word = config.concept.name if config.data.captions else None
    return read_folder(path, size, caption_word=word)


def _is_path(images: Images) -> bool:
    return isinstance(images, str | os.PathLike)


def _writable(folder: epath.Path) -> epath.Path:
    """Makes the folder and a file in it, now rather than after the training.

    All processes must see the file: checkpoints are written and read by all of them.
    """
    probe = folder / ".probe"
    reason = ""
    if is_writer():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
        except (OSError, ImportError) as error:
            reason = " ".join(str(error).split())
    (reason, *_) = gather(reason)
    if reason:
        raise UserError(f"can't write to the folder '{folder}' (--out): {reason}")
    seen = gather(probe.exists())
    if is_writer():
        probe.unlink()
    if not all(seen):
        raise UserError(
            f"the folder '{folder}' (--out) isn't the same for all processes, process "
            f"{seen.index(False)} has another: choose one on a shared disk, or gs://BUCKET/FOLDER"
        )
    return folder


def _check_same_run(
    before: dict[str, Any], settings: dict[str, Any], done: int, folder: epath.Path
) -> None:
    """Raises UserError if the folder holds a run with other settings."""
    free = set(_FREE)
    if settings["optimizer.schedule"] == "constant" and settings["train.steps"] >= done:
        free.add("train.steps")  # train on for longer
    changed = [
        f"{key} ({before.get(key)} -> {value})"
        for key, value in settings.items()
        if key not in free and before.get(key) != value
    ]
    if changed:
        raise UserError(
            f"the folder '{folder}' holds a run with other settings: {', '.join(changed)}; "
            "set them back to go on, begin anew with --restart, or choose another --out"
        )


def _fingerprint(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def _warn_of_copies(pixels: UInt8[np.ndarray, "m H W 3"]) -> None:
    different = len({picture.tobytes() for picture in pixels})
    if different < len(pixels):
        told = "all" if different == 1 else f"{len(pixels) - different}"
        warn(
            f"WARNING: {told} of the {len(pixels)} images are identical to another one, only "
            f"{different} differ: a concept is learned from what different images have in common"
        )


def _check_moments(moments: Float32[np.ndarray, "f m h w c"], photos: Sequence[Photo]) -> None:
    """Raises UserError for an image that the autoencoder makes NaN or infinity of."""
    finite = np.isfinite(moments).all(axis=(0, 2, 3, 4))
    if not finite.all():
        names = ", ".join(photos[i].name for i in np.flatnonzero(~finite)[:5])
        raise UserError(
            f"the autoencoder makes NaN or infinity of {names}: use --model.dtype float32"
        )


def _warn_of_idle_rows(state: State, start: Concept) -> None:
    """A row that never got a gradient is the initializer still: tell, loudly."""
    rows = np.arange(start.num_buckets)
    without = rows[np.array(state["examples"]) == 0]
    unmoved = (np.array(state["table"]) == start.embeddings).all(axis=(1, 2))
    no_gradient = rows[(np.array(state["gradients"]) == 0) & (np.array(state["examples"]) > 0)]
    still = np.setdiff1d(rows[unmoved], np.concatenate([without, no_gradient]))
    for kind, which in (
        ("had no training example", without),
        ("never got a gradient", no_gradient),
        ("did not move", still),
    ):
        if len(which):
            warn(
                f"WARNING: row{'s' if len(which) > 1 else ''} {', '.join(map(str, which))} of "
                f"<{start.name}> {kind} and still hold the initializer: train longer, or with a "
                "larger batch or fewer buckets"
            )
