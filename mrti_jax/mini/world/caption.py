# SPDX-License-Identifier: Apache-2.0
"""Plain English captions of scenes, with a dial for how much they mention."""

import numpy as np

from mrti_jax.mini.world.scene import Scene

_STYLE_PREFIXES = {
    "photo": ("a photo of", "a photo of", "the photo of", "a good photo of", "a cropped photo of",
              "a bright photo of", "a dark photo of", "a bad photo of", "a low resolution photo of",
              "a photograph of"),
    "painting": ("a painting of", "a painting of", "the painting of", "a good painting of",
                 "an oil painting of"),
    "drawing": ("a drawing of", "a drawing of", "the drawing of", "a good drawing of",
                "a cartoon drawing of"),
}  # fmt: skip
_OPEN_PREFIXES = ("a picture of", "an image of", "a rendering of", "a rendition of",
                  "a depiction of", "a picture of")  # fmt: skip
_EMPTY_ADJECTIVES = ("clean", "nice", "cool", "weird", "dirty", "good")

TEXTURE_NOUNS = {
    "striped": "stripes",
    "dotted": "dots",
    "checked": "checks",
    "ringed": "rings",
    "zigzag": "zigzags",
}
PLACE_PHRASES = {
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle", "in the center"),
}


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _join(*words: str) -> str:
    return " ".join(filter(None, words))


def with_article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _appearance(
    scene: Scene, noun: str, colour: bool, texture: bool, rng: np.random.Generator
) -> tuple[str, str]:
    """Words before the noun, and the noun with what follows it."""
    hue = scene.colour if colour else ""
    if scene.texture == "plain":
        return _join("plain" if texture and rng.random() < 0.12 else "", hue), noun
    if not texture:
        return hue, noun
    way = rng.random()
    if way < 0.2:
        return hue, f"{noun} with {TEXTURE_NOUNS[scene.texture]}"
    if colour and way < 0.3:
        return scene.texture, f"{noun} in {hue}"
    return _join(hue, scene.texture), noun


def _object(scene: Scene, mention: float, name: str | None, rng: np.random.Generator) -> str:
    """The object phrase without an article."""
    size = scene.size if scene.size != "medium" and rng.random() < mention else ""
    if name is not None:
        return _join(size, name, scene.shape if rng.random() < 0.3 else "")
    if scene.thing and rng.random() < 0.85:
        return _join(size, scene.thing)
    colour, texture = rng.random(2) < mention
    before, noun = _appearance(scene, scene.shape, bool(colour), bool(texture), rng)
    empty = _pick(rng, _EMPTY_ADJECTIVES) if rng.random() < 0.04 else ""
    return _join(empty, size, before, noun)


def _prefix(scene: Scene, mention: float, large: bool, rng: np.random.Generator) -> str:
    if rng.random() < mention:
        if large and scene.style == "photo" and rng.random() < 0.3:
            return "a close-up photo of"
        return _pick(rng, _STYLE_PREFIXES[scene.style])
    return _pick(rng, _OPEN_PREFIXES) if rng.random() < 0.6 else ""


def _background(scene: Scene, rng: np.random.Generator) -> str:
    kind = scene.background_kind
    if kind == "plain":
        kind = "plain" if rng.random() < 0.12 else ""
    words = _join(scene.background, kind, "background")
    return f"{_pick(rng, ('on', 'on', 'on', 'against'))} {with_article(words)}"


def caption(
    scene: Scene, rng: np.random.Generator, mention: float = 1.0, name: str | None = None
) -> str:
    """A lower-case English caption of `scene`.

    The shape (or the noun of a thing) is always named; `mention` in [0, 1] is the chance of each
    other attribute (size, colours, texture, place, background, style). A medium size has no word,
    and plain textures and the middle are named only sometimes, even at 1. A `name` replaces
    the words for the appearance.
    """
    phrase = _object(scene, mention, name, rng)
    prefix = _prefix(scene, mention, scene.size == "large", rng)
    if prefix:
        article = rng.random()
        if article < 0.78:
            phrase = with_article(phrase)
        else:
            phrase = f"{'the' if article < 0.94 else _pick(rng, ('my', 'one'))} {phrase}"
        phrase = f"{prefix} {phrase}"
    elif rng.random() < 0.8:
        phrase = with_article(phrase)
    place_chance = mention * (0.25 if scene.place == "middle" else 1.0)
    place = _pick(rng, PLACE_PHRASES[scene.place]) if rng.random() < place_chance else ""
    background = _background(scene, rng) if rng.random() < mention else ""
    tail = [place, background] if rng.random() < 0.7 else [background, place]
    joint = ", " if rng.random() < 0.15 else " "
    return joint.join(filter(None, (phrase, *tail)))
