# SPDX-License-Identifier: Apache-2.0
"""Photos of a concept: from a folder of image files to square RGB pictures of the training size."""

import collections
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from mrti_jax.concept.prompt import Word
from mrti_jax.concept.schemes import read_words
from mrti_jax.errors import UserError, warn
from mrti_jax.files import is_regular, list_folder, read_text, reason, reporting, to_path
from mrti_jax.parallel.processes import check_same, map_in_parts

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Pictures too, but in formats that are not read.
OTHERS = (".heic", ".heif", ".gif", ".tif", ".tiff", ".avif", ".jxl", ".dng")


@dataclass(frozen=True, eq=False)
class Photo:
    """One training picture.

    `whole`: the scaled picture that `pixels` are cut out of, of the same width or height. `sizes`,
    which SDXL is conditioned on: height and width of the original picture, top and left of `pixels`
    in `whole`, height and width of `pixels`. `captions`: its own, `{}` standing for the word; may
    be empty.
    """

    name: str
    whole: UInt8[np.ndarray, "h w 3"]
    sizes: tuple[int, int, int, int, int, int]
    captions: tuple[str, ...] = ()

    @property
    def pixels(self) -> UInt8[np.ndarray, "s s 3"]:
        """The square to train on."""
        top, left, height, width = self.sizes[2:]
        return self.whole[top : top + height, left : left + width]


def read_folder(path: epath.PathLike, size: int, *, caption_word: str | None = None) -> list[Photo]:
    """The pictures in a folder (or of one file), sorted by name, as squares of `size` pixels.

    Files that can't be read are named in a warning and left out; hidden files are ignored. With
    `caption_word`, each line of `photo.txt` is a caption of `photo.png`; `<caption_word>` or `{}`
    stands for the word. Raises UserError if the folder is missing or no picture is left.
    """
    folder = to_path(path)
    files = find_images(folder)
    others = list(filter(_is_other, list_folder(folder)))
    if others:
        warn(
            f"{_count(others, 'picture')} in '{folder}' left out, in formats that aren't read: "
            f"{_list([file.name for file in others])}; save them as PNG or JPEG"
        )
    check_same([file.name for file in files], f"the images in '{folder}'")
    photos = decode([(file.name, file.read_bytes) for file in files], size, f"'{folder}'")
    if caption_word is None:
        return photos
    stems = {file.stem for file in files}
    texts = [file for file in list_folder(folder) if file.suffix == ".txt"]
    if loose := [file.name for file in texts if file.stem not in stems]:
        warn(f"{_count(loose, 'text')} in '{folder}' left out, without an image: {_list(loose)}")
    return [
        replace(photo, captions=_captions(file, caption_word))
        for photo in photos
        for file in files
        if file.name == photo.name
    ]


def find_images(folder: epath.Path) -> list[epath.Path]:
    """The image files in a folder, or the one that `folder` is, sorted by name; hidden ones are
    ignored. Raises UserError if there are none."""
    check_exists(folder)
    with reporting(f"can't read the folder of images '{folder}'", folder):
        if not folder.is_dir():
            if _is_image(folder):
                return [folder]
            raise UserError(f"'{folder}' is not a folder, and not a PNG, JPEG, WebP or BMP image")
        paths = list_folder(folder)
        files = list(filter(_is_image, paths))
    if not files:
        raise UserError(
            f"the folder '{folder}' holds no images (PNG, JPEG, WebP, BMP): {_describe(paths)}"
            + ("; save them as PNG or JPEG" if any(map(_is_other, paths)) else "")
        )
    return files


def check_exists(folder: epath.Path) -> None:
    """Raises UserError if there is no such folder or file of images."""
    with reporting(f"can't read the folder of images '{folder}'", folder):
        if not folder.exists():
            raise UserError(f"there is no folder of images '{folder}'")


def decode(
    files: Sequence[tuple[str, Callable[[], bytes | Image.Image]]], size: int, where: str
) -> list[Photo]:
    """Named images as squares of `size` pixels; each function reads one, encoded or a PIL one.

    With several processes, each reads its part. Warns of images that can't be read and of those
    smaller than `size`. Raises UserError if none is left.
    """

    def read(file: tuple[str, Callable[[], bytes | Image.Image]]) -> tuple[Photo | None, str]:
        """The photo, and what to report about it."""
        name, content = file
        try:
            image = _open(content())
            photo = square(name, image, size)
        except UnidentifiedImageError:
            return None, f"{name} (not an image)"
        except Image.DecompressionBombError:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
            return None, f"{name} (over {most} megapixels: scale it down)"
        except Exception as error:  # decoders raise all kinds of errors for damaged files
            return None, f"{name} ({reason(error)})"
        is_small = min(image.size) < size
        return photo, f"{name} ({image.width}x{image.height})" if is_small else ""

    read_files = map_in_parts(read, files)
    photos = [photo for photo, _ in read_files if photo is not None]
    bad = [said for photo, said in read_files if photo is None]
    small = [said for photo, said in read_files if photo is not None and said]
    if bad and photos:
        warn(f"skipped {_count(bad, 'image')} in {where} that can't be read: {_list(bad)}")
    if not photos:
        detail = f"none of them can be read: {_list(bad)}" if bad else "it is empty"
        raise UserError(f"no images in {where}: {detail}")
    if small:
        warn(
            f"{_count(small, 'image')} in {where} had to be enlarged to {size} px, the training "
            f"size, and will look soft: {_list(small)}"
        )
    return photos


def square(name: str, image: Image.Image, size: int) -> Photo:
    """The picture scaled until its short side is `size`, then its centre cut out; never squashed.

    EXIF orientation is applied, transparency shows white, all modes become 8-bit RGB.
    """
    image = _to_rgb(ImageOps.exif_transpose(image))
    original = (image.height, image.width)
    scale = size / min(image.size)
    scaled = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return Photo(name, np.array(image), (*original, top, left, size, size))


def from_arrays(
    images: Image.Image | Iterable[UInt8[np.ndarray, "_ _ 3"] | Image.Image], size: int
) -> list[Photo]:
    """Pictures that are in memory already: uint8 RGB arrays or PIL images. Raises UserError for
    anything else."""
    if isinstance(images, Image.Image):
        images = [images]

    def reading(image: object) -> Callable[[], Image.Image]:
        picture = _to_pil(image)
        return lambda: picture

    named = [(f"image {i}", reading(image)) for i, image in enumerate(images)]
    return decode(named, size, "the list of images")


def _to_pil(image: object) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return Image.fromarray(image)
        what = f"{image.dtype} {list(image.shape)}"
    else:
        what = f"{type(image).__name__} (of files, give the folder)"
    raise UserError(
        "pictures in memory must be a list of PIL images or of uint8 arrays [height, width, 3], "
        f"not {what}"
    )


def _is_image(file: epath.Path) -> bool:
    return file.suffix.lower() in EXTENSIONS and is_regular(file)


def _is_other(file: epath.Path) -> bool:
    return file.suffix.lower() in OTHERS


def _open(content: bytes | Image.Image) -> Image.Image:
    if isinstance(content, Image.Image):
        if content.mode in ("I", "F"):
            raise ValueError(f"what white is in mode {content.mode} is not known: convert it to L")
        return content
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it refuses twice as many
        # Only these: decoders of other formats run programs, or read files that the image names.
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    image.load()
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which PIL's own conversion clips at 255
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _captions(file: epath.Path, word: str) -> tuple[str, ...]:
    beside = file.with_suffix(".txt")
    if not beside.exists():
        return ()
    text = read_text(beside, f"the captions in '{beside}' can't be read")
    lines = [line.strip() for line in text.split("\n")]
    captions = [_caption(line, word, beside) for line in lines if line]
    without = [caption for caption in captions if "{}" not in caption]
    if without:
        warn(
            f"left out {len(without)} of the {len(captions)} captions in '{beside}', which have "
            f"neither <{word}> nor {{}} where the word goes: {without[0][:80]!r}"
            + (", ..." if len(without) > 1 else "")
        )
    return tuple(caption for caption in captions if "{}" in caption)


def _caption(line: str, word: str, file: epath.Path) -> str:
    """The line with `{}` for the word. Raises UserError for other words."""
    try:
        parts = read_words(line, [word]).parts
    except UserError as error:
        raise UserError(f"the caption {line[:80]!r} in '{file}': {error}") from None
    numbered = [str(part) for part in parts if isinstance(part, Word) and part.scheme != "bare"]
    if numbered:
        raise UserError(
            f"the caption {line[:80]!r} in '{file}' has {numbered[0]}: a word has no resolution "
            f"while it is learned, write <{word}>"
        )
    return "".join(part if isinstance(part, str) else "{}" for part in parts)


def _describe(paths: Sequence[epath.Path]) -> str:
    if not paths:
        return "it is empty"
    kinds = collections.Counter(
        "folder" if path.is_dir() else path.suffix.lower() or "file without extension"
        for path in paths
    )
    held = ", ".join(f"{number} x {kind}" for kind, number in kinds.most_common(5))
    return f"it holds {held}"


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _list(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
