# SPDX-License-Identifier: Apache-2.0
"""How often the embedded model draws what a fresh caption says, read by `mrti_jax.mini.checker`.

What counts as right, for each picture:
    colour, shape, texture: the caption's, or its noun's; a caption without a texture means plain;
    background, its kind: the colour, and plain, gradient or tiled; without a word it is plain.
"""

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from benchmarks.learned import Drawing
from benchmarks.report import Report
from benchmarks.round_trip import round_trip
from mrti_jax.commands import use_compilation_cache
from mrti_jax.mini.checker import Reading, read
from mrti_jax.mini.world import Scene, caption, random_scene, render
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling import generate

Images = UInt8[np.ndarray, "n 64 64 3"]

TARGETS = {"colour": 95.0, "shape": 85.0, "background": 90.0}
MEASURES = ("colour", "shape", "texture", "background", "background kind")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    count: int = 500
    """Captions, one picture each."""
    seed: int = 990_001
    """Of scenes and captions; no stage of the base training uses it."""
    captions_per_seed: int = 10
    """Captions that are drawn from the same noise."""
    drawing: tyro.conf.OmitArgPrefixes[Drawing] = dataclasses.field(default_factory=Drawing)
    model: str = "mini"
    """A diffusers folder, or the embedded model."""
    sheet: str | None = None
    """File for a sheet of the first pictures with captions and verdicts."""
    sheet_count: int = 60
    """Pictures on the sheet."""
    out: str | None = None
    """File for the report."""


def judge(scene: Scene, reading: Reading) -> dict[str, bool]:
    """Which of the MEASURES a picture of `scene` has right."""
    fields = {measure: measure.replace(" ", "_") for measure in MEASURES}
    return {m: getattr(reading, field) == getattr(scene, field) for m, field in fields.items()}


def psnr(a: Images, b: Images) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255.0**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def draw_all(sd: StableDiffusion, texts: Sequence[str], flags: Flags) -> Images:
    """One picture of each caption."""
    images = []
    per_seed = flags.captions_per_seed
    for seed, start in enumerate(range(0, len(texts), per_seed)):
        pictures = generate(
            sd,
            texts[start : start + per_seed],
            seeds=seed,
            sampler=flags.drawing.sampler,
            num_steps=flags.drawing.sampling_steps,
            guidance_scale=flags.drawing.guidance,
            guidance_interval=flags.drawing.guidance_interval,
            batch_size=min(flags.drawing.at_once, per_seed),
            height=64,
            width=64,
        )
        images += [picture.image for picture in pictures]
    return np.stack(images)


def kind_of(scene: Scene, text: str) -> str:
    """Which sort of caption it is."""
    if scene.thing is not None and scene.thing in text.split():
        return "named by a noun (lemon, ...)"
    return "plain" if scene.texture == "plain" else "textured"


def main(flags: Flags) -> None:
    """Draws, reads and reports."""
    use_compilation_cache()
    report = Report("How often the embedded model draws what a fresh caption says")
    sd = StableDiffusion.load(flags.model)
    told = flags.drawing
    report.line(
        f"{flags.count} captions; sampler {told.sampler or 'of the model'}, {told.in_words}"
    )
    rngs = [np.random.default_rng((flags.seed, i)) for i in range(flags.count)]
    scenes = [random_scene(rng) for rng in rngs]
    texts = [caption(scene, rng) for scene, rng in zip(scenes, rngs, strict=True)]

    drawn = draw_all(sd, texts, flags)
    real = np.stack([render(scene, 64) for scene in scenes])
    decoded = round_trip(sd, real)
    verdicts = {
        name: [judge(*each) for each in zip(scenes, map(read, images), strict=True)]
        for name, images in (("drawn", drawn), ("real", real), ("decoded", decoded))
    }

    def share(name: str, measure: str, kind: str | None = None) -> str:
        hits = [
            verdict[measure]
            for verdict, scene, text in zip(verdicts[name], scenes, texts, strict=True)
            if kind in (None, kind_of(scene, text))
        ]
        return f"{100 * np.mean(hits):.1f}" if hits else ""

    rows = []
    for measure in MEASURES:
        p = float(share("drawn", measure)) / 100
        error = 100 * np.sqrt(p * (1 - p) / flags.count)
        target = f"{TARGETS[measure]:.0f}" if measure in TARGETS else ""
        real_and_decoded = (share("real", measure), share("decoded", measure))
        rows.append((measure, share("drawn", measure), f"{error:.1f}", target, *real_and_decoded))
    header = ("right, %", "drawn", "+-", "target", "real pictures", "after the VAE")
    report.table(header, rows)

    kinds = sorted({kind_of(scene, text) for scene, text in zip(scenes, texts, strict=True)})
    report.table(
        ("drawn, by caption, %", *kinds),
        [(m, *(share("drawn", m, kind) for kind in kinds)) for m in MEASURES],
    )
    shapes = sorted({scene.shape for scene in scenes})
    by_shape = [
        [v["shape"] for v, scene in zip(verdicts["drawn"], scenes, strict=True) if scene.shape == s]
        for s in shapes
    ]
    report.table(
        ("drawn, by shape", "right, %", "pictures"),
        [
            (s, f"{100 * np.mean(h):.0f}", str(len(h)))
            for s, h in zip(shapes, by_shape, strict=True)
        ],
    )
    report.line()
    report.line(
        f"VAE: {psnr(real, decoded):.2f} dB PSNR on {flags.count} fresh pictures (target 27)"
    )
    if flags.sheet is not None:
        save_sheet(flags.sheet, drawn, texts, verdicts["drawn"], flags.sheet_count)
        report.line(f"sheet: {flags.sheet}")
    report.end(flags.out)


def save_sheet(
    path: str, images: Images, texts: Sequence[str], verdicts: Sequence[dict[str, bool]], count: int
) -> None:
    """The first pictures, each with its caption below and, in red, what is wrong about it."""
    count = min(count, len(images))
    columns, width, height, font = 6, 160, 265, ImageFont.load_default(size=12)
    sheet = Image.new("RGB", (columns * width, -(-count // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i in range(count):
        x, y = (i % columns) * width + 8, (i // columns) * height + 8
        sheet.paste(Image.fromarray(images[i]).resize((134, 134), Image.Resampling.LANCZOS), (x, y))
        wrong = [measure for measure, right in verdicts[i].items() if not right]
        told = textwrap.wrap(texts[i], 23)
        pen.multiline_text((x, y + 138), "\n".join(told), "black", font, spacing=2)
        below = y + 140 + 15 * len(told)
        verdict = "\n".join(textwrap.wrap("wrong: " + ", ".join(wrong), 23)) if wrong else "right"
        pen.multiline_text((x, below), verdict, "red" if wrong else "green", font, spacing=2)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
