# SPDX-License-Identifier: Apache-2.0
"""Photos from a TFDS data set that is made here, without TensorFlow."""

import importlib.resources
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrti_jax.errors import UserError
from mrti_jax.training.tfds_source import read_tfds

pytestmark = pytest.mark.filterwarnings("ignore")  # what TFDS itself warns of


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyPhotos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"photo": tfds.features.Image(shape=(None, None, 3)), "n": np.int32}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator:
            for n in range(4):
                stream = io.BytesIO()
                Image.new("RGB", (24, 16), (60 * n, 0, 0)).save(stream, "PNG")
                yield n, {"photo": stream.getvalue(), "n": n}

    # TFDS 4.9.10 forgets to require the backport, which it needs only to prepare a data set.
    sys.modules.setdefault("importlib_resources", importlib.resources)
    folder = tmp_path_factory.mktemp("tfds")
    TinyPhotos(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


def test_reads_a_slice_without_tensorflow(data_dir: Path):
    photos = read_tfds("tfds:tiny_photos/train[:3]", 16, data_dir=str(data_dir))
    assert len(photos) == 3 and photos[0].pixels.shape == (16, 16, 3)
    whole = read_tfds(f"tfds:{data_dir}/tiny_photos/1.0.0/train", 16)
    assert sorted(int(p.pixels[0, 0, 0]) for p in whole) == [0, 60, 120, 180]
    assert "tensorflow" not in sys.modules


def test_the_newest_version_is_read(data_dir: Path, tmp_path: Path):
    prepared = data_dir / "tiny_photos" / "1.0.0"
    for version in ("9.0.0", "10.0.0", "2.0.0"):
        shutil.copytree(prepared, tmp_path / "tiny_photos" / version)
    for old in ("9.0.0", "2.0.0"):
        for records in (tmp_path / "tiny_photos" / old).glob("*array_record*"):
            records.unlink()
    assert len(read_tfds("tfds:tiny_photos/train", 16, data_dir=str(tmp_path))) == 4


def test_unknown_names_are_told(data_dir: Path):
    with pytest.raises(UserError, match=r"can't read 'nope'.*splits: train"):
        read_tfds("tfds:tiny_photos/nope", 16, data_dir=str(data_dir))
    with pytest.raises(UserError, match="there is no data set 'no_such_set'"):
        read_tfds("tfds:no_such_set/train", 16, data_dir=str(data_dir))
    with pytest.raises(UserError, match="names no split"):
        read_tfds("tfds:tiny_photos", 16)
