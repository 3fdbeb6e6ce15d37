# SPDX-License-Identifier: Apache-2.0
"""What one of several processes sees: `python meeting.py FOLDER`, of which each has a part.

Prints JSON: the photos that it has read itself, those that it has then, and what it is told about
folders that are not the same for all, and about a file that can't be written.
"""

import io
import json
import sys
from functools import partial
from pathlib import Path

import jax
from etils import epath
from PIL import Image

from mrti_jax.errors import UserError
from mrti_jax.files import write_whole
from mrti_jax.parallel.processes import as_writer, failing_together, join
from mrti_jax.training.images import decode, read_folder

SIZE = 8
NUM_PHOTOS = 40  # more than processes send each other at a time


def main(folder: Path) -> None:
    join()
    read: list[str] = []

    def content(name: str) -> bytes:
        read.append(name)
        png = io.BytesIO()
        Image.new("RGB", (SIZE, SIZE)).save(png, "PNG")
        return png.getvalue()

    names = map(str, range(NUM_PHOTOS))
    photos = decode([(name, partial(content, name)) for name in names], SIZE, "memory")
    said = []
    for name in ("missing", "others"):
        try:
            with failing_together():
                read_folder(folder / name / str(jax.process_index()), SIZE)
        except UserError as error:
            said.append(str(error))
    try:
        as_writer(lambda: write_whole(epath.Path(folder / "missing" / "0" / "a.png" / "new"), b""))
    except UserError as error:
        said.append(str(error))
    print(json.dumps({"read": read, "photos": [photo.name for photo in photos], "said": said}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
