# SPDX-License-Identifier: Apache-2.0
"""PNG files that say in text chunks how they were drawn.

`parameters` is text as A1111's web UI writes it, which other tools show; `mrti_jax` is a JSON
object with everything needed to draw the picture again, on sheets a list of rows of such objects.
"""

import io
import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from etils import epath
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mrti_jax.concept import parse
from mrti_jax.errors import UserError
from mrti_jax.files import in_object_store, reporting, to_path, write_whole
from mrti_jax.sampling.generate import Picture

CHUNK = "mrti_jax"
MAX_SLUG = 60
A1111_SAMPLERS = {
    "ddim": "DDIM",
    "pndm": "PLMS",
    "euler": "Euler",
    "euler_karras": "Euler Karras",
    "euler_ancestral": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
}


def save_picture(picture: Picture, folder: epath.PathLike) -> epath.Path:
    """Writes `folder/<prompt>-seed<seed>.png`, numbered if that exists; returns its path."""
    info = PngInfo()
    info.add_text("parameters", a1111_text(picture.parameters))
    info.add_text(CHUNK, json.dumps(picture.parameters))
    stem = f"{slug(picture.parameters['prompt'])}-seed{picture.parameters['seed']}"
    return save_new(Image.fromarray(picture.image), folder, stem, info)


def sheet_info(rows: Sequence[Sequence[Picture]]) -> PngInfo:
    """The text chunk of a sheet of pictures: lists of their parameters, row by row."""
    info = PngInfo()
    told = [[picture.parameters for picture in row] for row in rows]
    info.add_text(CHUNK, json.dumps(told), zip=True)
    return info


def save_new(
    image: Image.Image, folder: epath.PathLike, stem: str, info: PngInfo | None = None
) -> epath.Path:
    """Writes `folder/<stem>.png`, or `<stem>-2.png`, ...: no file is ever overwritten, not even
    that of another process which draws into the folder, unless both write to an object store at the
    same time: names there can't be reserved.

    Raises UserError if the folder can't be made or written to.
    """
    content = png_bytes(image, info)
    target = to_path(folder)
    check_folder(target)
    names = itertools.chain([f"{stem}.png"], (f"{stem}-{i}.png" for i in itertools.count(2)))
    with reporting(f"can't write to the folder {target}", target):
        target.mkdir(parents=True, exist_ok=True)
        path = next(target / name for name in names if _reserved(target / name))
    try:
        write_whole(path, content)
    except BaseException:
        if not in_object_store(path):  # there, nothing was reserved
            path.unlink(missing_ok=True)
        raise
    return path


def _reserved(path: epath.Path) -> bool:
    """Creates the file, empty, unless it exists; returns whether it did."""
    if in_object_store(path):  # nothing there is created exclusively
        return not path.exists()
    try:
        with open(path, "xb"):
            return True
    except FileExistsError:
        return False


def png_bytes(image: Image.Image, info: PngInfo | None = None) -> bytes:
    """A PNG file's content."""
    content = io.BytesIO()
    image.save(content, "PNG", pnginfo=info)
    return content.getvalue()


def check_folder(folder: epath.PathLike) -> None:
    """Raises UserError if the folder, or what it would be made in, is a file or can't be written
    to."""
    path = to_path(folder)
    if in_object_store(path):
        return
    with reporting(f"can't write to the folder {path}", path):
        found = next(place for place in (path, *path.parents) if place.exists())
        is_folder = found.is_dir()
    if not is_folder:
        raise UserError(f"{found} is a file: name a folder for the pictures")
    if not os.access(found, os.W_OK):
        raise UserError(f"can't write to the folder {path}: {found} is write-protected")


def a1111_text(parameters: dict[str, Any]) -> str:
    """The parameters as A1111's web UI words them."""
    negative = parameters["negative_prompt"]
    settings = {
        "Steps": parameters["num_steps"],
        "Sampler": A1111_SAMPLERS.get(parameters["sampler"], parameters["sampler"]),
        "CFG scale": f"{parameters['guidance_scale']:g}",
        "Seed": parameters["seed"],
        "Size": f"{parameters['width']}x{parameters['height']}",
        "Model": PurePosixPath(parameters["model"]).name,
    }
    lines = [parameters["prompt"]]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
    return "\n".join(lines).replace("\0", "")


def slug(prompt: str) -> str:
    """A prompt as part of a file name: letters, digits, dots in numbers and single dashes."""
    words: list[str] = []
    for part in parse(prompt).parts:
        if isinstance(part, str):
            words += re.findall(r"[A-Za-z0-9]+", part)
            continue
        scheme = [part.scheme] * (part.scheme in ("semi", "fixed"))
        argument = [] if part.argument is None else [str(part.argument)]
        words += [part.name, *scheme, *argument]
    return "-".join(words)[:MAX_SLUG].strip("-.") or "picture"
