# SPDX-License-Identifier: Apache-2.0
"""Pictures in rows and columns on one sheet, with a title and labels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

MIN_CELL = 128  # px: smaller pictures are enlarged by a whole factor
GAP = 8
MARGIN = 16
MAX_ROW_LABEL = 180
TITLE_SIZE, LABEL_SIZE = 18, 14
PAPER, INK, PALE = (255, 255, 255), (32, 32, 32), (238, 238, 238)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def make_grid(
    cells: Sequence[Sequence[UInt8[np.ndarray, "H W 3"] | None]],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str = "",
    *,
    rows_above: int = 0,
) -> Image.Image:
    """A sheet of `cells` [rows][columns], pictures of one size; None leaves a place empty.

    There is a label for each row, on the left, and for each column, if any, below the first
    `rows_above` rows, which it is not for.
    """
    num_columns = max(len(row) for row in cells)
    first = next(image for row in cells for image in row if image is not None)
    factor = max(1, -(-MIN_CELL // min(first.shape[:2])))
    height, width = (factor * side for side in first.shape[:2])

    label_font, title_font = _font(LABEL_SIZE), _font(TITLE_SIZE)
    rows = [_wrap(label, label_font, MAX_ROW_LABEL) for label in row_labels or []]
    columns = [_wrap(label, label_font, width) for label in column_labels or []]
    body_width = num_columns * (width + GAP) - GAP
    left = max((_size(lines, label_font)[0] for lines in rows), default=0)
    left += 2 * MARGIN if left else MARGIN
    heading = _wrap(title, title_font, left + body_width - MARGIN)
    heading_height = _size(heading, title_font)[1]
    columns_height = max((_size(lines, label_font)[1] for lines in columns), default=0)
    top = MARGIN + (heading_height + MARGIN if heading else 0)
    labels_height = columns_height + GAP if columns else 0

    def row_top(row: int) -> int:
        return top + row * (height + GAP) + (labels_height if row >= rows_above else 0)

    sheet_size = (left + body_width + MARGIN, row_top(len(cells)) - GAP + MARGIN)
    sheet = Image.new("RGB", sheet_size, PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, heading, title_font, (MARGIN, MARGIN), "left")
    for index, lines in enumerate(columns):
        middle = left + index * (width + GAP) + width // 2
        place = (middle, row_top(rows_above) - GAP - _size(lines, label_font)[1])
        _write(pen, lines, label_font, place, "center")
    for row, images in enumerate(cells):
        y = row_top(row)
        if rows:
            label_y = y + (height - _size(rows[row], label_font)[1]) // 2
            _write(pen, rows[row], label_font, (left - MARGIN, label_y), "right")
        for column, image in enumerate(images):
            x = left + column * (width + GAP)
            if image is None:
                pen.rectangle((x, y, x + width - 1, y + height - 1), fill=PALE)
            else:
                enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
                sheet.paste(enlarged, (x, y))
    return sheet


def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _line_height(font: Font) -> int:
    return round(1.3 * getattr(font, "size", LABEL_SIZE))


def _size(lines: Sequence[str], font: Font) -> tuple[int, int]:
    width = max((font.getlength(line) for line in lines), default=0)
    return int(np.ceil(width)), _line_height(font) * len(lines)


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces where that can be."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while font.getlength(line) > width and len(line) > 1:
            fits = max(1, sum(font.getlength(line[:i]) <= width for i in range(1, len(line) + 1)))
            lines.append(line[:fits])
            line = line[fits:]
    return lines + [line] * bool(line)


def _write(
    pen: ImageDraw.ImageDraw, lines: Sequence[str], font: Font, place: tuple[int, int], align: str
) -> None:
    """Lines below one another; `place` is the top of their left edge, middle or right edge."""
    for index, line in enumerate(lines):
        back = {"left": 0.0, "center": 0.5, "right": 1.0}[align] * font.getlength(line)
        position = (place[0] - back, place[1] + index * _line_height(font))
        pen.text(position, line, INK, font)
