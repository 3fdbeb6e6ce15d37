# SPDX-License-Identifier: Apache-2.0
"""Curves in a picture, drawn with Pillow."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN = 960, 600, 80
PAPER, INK, PALE = (255, 255, 255), (32, 32, 32), (220, 220, 220)
COLOURS = ((0, 90, 181), (220, 50, 32), (26, 133, 85))  # told apart by the colour-blind, too
NUM_TICKS = 6

Curve = Sequence[tuple[float, float]]


def draw_chart(curves: Mapping[str, Curve], title: str, x_label: str, y_label: str) -> Image.Image:
    """A line for each named curve of (x, y) points; both axes begin at 0."""
    points = [point for curve in curves.values() for point in curve]
    x_max, y_max = (max(values) for values in zip(*points, strict=True))
    font = ImageFont.load_default(size=16)
    chart = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(chart)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
        return MARGIN + across * x / x_max, HEIGHT - MARGIN - up * max(y, 0.0) / y_max

    for tick in range(NUM_TICKS + 1):
        x, y = x_max * tick / NUM_TICKS, y_max * tick / NUM_TICKS
        pen.line((*place(0, y), *place(x_max, y)), PALE)
        pen.text(place(x, 0), f"\n{x:,.0f}", INK, font, anchor="ma")
        pen.text(place(0, y), f"{y:.0f} ", INK, font, anchor="rm")
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        pen.line([place(*point) for point in curve], colour, width=3, joint="curve")
        for point in curve:
            x, y = place(*point)
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
        beside = (WIDTH - MARGIN - 8, HEIGHT - MARGIN - 24 * (len(curves) - index))
        pen.text(beside, name, colour, font, anchor="rm")
    pen.text((WIDTH / 2, MARGIN / 3), title, INK, font, anchor="ma")
    pen.text((WIDTH / 2, HEIGHT - MARGIN / 3), x_label, INK, font, anchor="ms")
    pen.text((8, MARGIN / 1.4), y_label, INK, font, anchor="lm")
    return chart
