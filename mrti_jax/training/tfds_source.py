# SPDX-License-Identifier: Apache-2.0
"""Photos from a TensorFlow Datasets (TFDS) data set, `tfds:NAME/split`, without TensorFlow."""

import io
import os
from functools import partial
from typing import Any

from PIL import Image

from mrti_jax.errors import UserError, warn
from mrti_jax.files import to_path
from mrti_jax.parallel.processes import check_same
from mrti_jax.training.config import TFDS_PREFIX
from mrti_jax.training.images import Photo, decode

# Their moments are kept on the device: at 512 px, 4096 photos are 0.5 GB.
MAX_IMAGES = 4096


def read_tfds(address: str, size: int, *, data_dir: str | None = None) -> list[Photo]:
    """The images of `tfds:NAME/split` as squares of `size` pixels.

    The split may be a slice (`train[:5]`), and NAME may hold a config (`name/config`) or be a
    folder with a prepared data set (`/data/my_set/1.0.0`). The data set must be prepared in the
    array_record format. Raises UserError for a data set or split that is not there, or has no
    image.
    """
    name, _, split = address.removeprefix(TFDS_PREFIX).rpartition("/")
    if not name or not split:
        raise UserError(f"'{address}' names no split: write tfds:NAME/split, as in tfds:NAME/train")
    builder = _builder(name, data_dir)
    import tensorflow_datasets as tfds

    features = builder.info.features or {}
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    if not images:
        held = ", ".join(features) or "nothing"
        raise UserError(f"the data set '{name}' has no image feature; it has {held}")
    key = images[0]
    if len(images) > 1:
        warn(f"the data set '{name}' has several images per example: using '{key}'")
    try:
        source = builder.as_data_source(split, decoders={key: tfds.decode.SkipDecoding()})
    except Exception as error:  # TFDS raises all kinds
        known = ", ".join(builder.info.splits) or "none"
        raise UserError(
            f"can't read '{split}' of the data set '{name}' (splits: {known}): {_reason(error)}"
        ) from error
    if len(source) > MAX_IMAGES:
        raise UserError(
            f"'{address}' has {len(source)} images, but at most {MAX_IMAGES} fit: use a slice, "
            f"such as {address.split('[')[0]}[:100]"
        )
    check_same([f"{len(source)} examples"], f"the images of '{address}'")
    files = [(f"example {i}", partial(_content, source, i, key)) for i in range(len(source))]
    return decode(files, size, f"'{address}'")


def _builder(name: str, data_dir: str | None) -> Any:
    os.environ.setdefault("TFDS_DISABLE_PROGRESS_BAR", "1")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            "reading a tfds: data set needs `pip install tensorflow-datasets array_record`"
        ) from error
    folders = [name] + ([os.path.join(data_dir, name)] if data_dir else [])
    for folder in folders:
        found = _prepared_folder(folder)
        if found:
            return tfds.builder_from_directory(found)
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record", try_gcs=False)
    except Exception as error:  # TFDS raises all kinds
        where = f" in '{data_dir}'" if data_dir else ""
        raise UserError(f"there is no data set '{name}'{where}: {_reason(error)}") from error


def _prepared_folder(folder: str) -> str | None:
    """The folder with dataset_info.json: this one, or that of its newest version."""
    path = to_path(folder)
    if (path / "dataset_info.json").exists():
        return str(path)
    if not path.is_dir():
        return None
    versions = [p for p in path.iterdir() if (p / "dataset_info.json").exists()]
    return str(max(versions, key=lambda p: _numbers(p.name))) if versions else None


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]


def _content(source: Any, index: int, key: str) -> bytes | Image.Image:
    value = source[index][key]
    if isinstance(value, bytes):
        return value
    if isinstance(value, io.BytesIO):
        return value.getvalue()
    return Image.fromarray(value)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
