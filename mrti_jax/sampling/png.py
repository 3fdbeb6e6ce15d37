# SPDX-License-Identifier: Apache-2.0
"""PNG files that carry what they were drawn with, in text chunks.

`parameters` is the text that A1111's web UI writes and that other people's tools show; `mrti_jax`
is a JSON object with everything that it takes to draw the picture again.
"""

import io
import json
import re
from typing import Any

from etils import epath
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mrti_jax.errors import UserError
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
    """Writes `folder/<prompt>-seed<seed>.png`, numbered if there is one already; gives its path."""
    info = PngInfo()
    info.add_text("parameters", a1111_text(picture.parameters))
    info.add_text(CHUNK, json.dumps(picture.parameters))
    stem = f"{slug(picture.parameters['prompt'])}-seed{picture.parameters['seed']}"
    return save_new(Image.fromarray(picture.image), folder, stem, info)


def save_new(
    image: Image.Image, folder: epath.PathLike, stem: str, info: PngInfo | None = None
) -> epath.Path:
    """Writes `folder/<stem>.png`, or `<stem>-2.png`, ...: no file is ever overwritten.

    Raises UserError where the folder can't be made or written to.
    """
    content = io.BytesIO()
    image.save(content, "PNG", pnginfo=info)
    target, number = epath.Path(folder), 1
    try:
        target.mkdir(parents=True, exist_ok=True)
        while True:
            path = target / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            try:
                with path.open("xb") as file:
                    file.write(content.getvalue())
                return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UserError(f"can't write to the folder {target}: {error.strerror or error}") from error


def read_parameters(path: epath.PathLike) -> dict[str, Any]:
    """What `save_picture` wrote into a PNG file. Raises UserError where there is no such thing."""
    try:
        with epath.Path(path).open("rb") as file, Image.open(file, formats=["PNG"]) as image:
            text = image.info.get(CHUNK)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} can't be read as a PNG file: {error}") from error
    try:
        parameters = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise UserError(f"{path} doesn't say how it was drawn: it has no '{CHUNK}' text chunk")
    return parameters


def a1111_text(parameters: dict[str, Any]) -> str:
    """The parameters as A1111's web UI words them."""
    negative = parameters["negative_prompt"]
    settings = {
        "Steps": parameters["num_steps"],
        "Sampler": A1111_SAMPLERS.get(parameters["sampler"], parameters["sampler"]),
        "CFG scale": f"{parameters['guidance_scale']:g}",
        "Seed": parameters["seed"],
        "Size": f"{parameters['width']}x{parameters['height']}",
        "Model": epath.Path(parameters["model"]).name,
    }
    lines = [parameters["prompt"]]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
    return "\n".join(lines).replace("\0", "")


def slug(prompt: str) -> str:
    """A prompt as part of a file name: letters, digits and single dashes."""
    words = re.findall(r"[A-Za-z0-9]+(?:\.[0-9]+)?", prompt)
    return "-".join(words)[:MAX_SLUG].strip("-.") or "picture"
