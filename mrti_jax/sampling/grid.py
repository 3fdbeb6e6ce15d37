# SPDX-License-Identifier: Apache-2.0
"""Pictures in rows and columns on one sheet, with a title and labels."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from mrti_jax.sampling.lettering import lettering

MIN_CELL = 128  # px: smaller pictures are enlarged by an integer factor
GAP = 8
MARGIN = 16
MAX_ROW_LABEL = 180
TITLE_SIZE, LABEL_SIZE = 18, 14
PAPER, PALE = (255, 255, 255), (238, 238, 238)


def make_grid(
    cells: Sequence[Sequence[UInt8[np.ndarray, "H W 3"] | None]],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str = "",
    *,
    rows_above: int = 0,
) -> Image.Image:
    """A sheet of `cells` [rows][columns], pictures of one size; None leaves a place empty.

    Row labels, if any, are on the left; column labels, if any, below the first `rows_above` rows,
    to which they don't apply. A row is as high as its pictures or its label, whichever is higher.
    """
    num_columns = max(len(row) for row in cells)
    first = next(image for row in cells for image in row if image is not None)
    factor = max(1, -(-MIN_CELL // min(first.shape[:2])))
    height, width = (factor * side for side in first.shape[:2])

    rows = [lettering(label, LABEL_SIZE, MAX_ROW_LABEL) for label in row_labels or []]
    columns = [lettering(label, LABEL_SIZE, width) for label in column_labels or []]
    body_width = num_columns * (width + GAP) - GAP
    left = max((label.width for label in rows), default=0)
    left += 2 * MARGIN if left else MARGIN
    heading = lettering(title, TITLE_SIZE, left + body_width - MARGIN)
    columns_height = max((label.height for label in columns), default=0)
    row_heights = [max(height, label.height) for label in rows] or [height] * len(cells)
    spaces = [row_height + GAP for row_height in row_heights]
    if columns:
        spaces.insert(rows_above, columns_height + GAP)
    tops = list(
        accumulate(spaces, initial=MARGIN + (heading.height + MARGIN if heading.lines else 0))
    )

    sheet = Image.new("RGB", (left + body_width + MARGIN, tops.pop() - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    heading.write(pen, (MARGIN, MARGIN), "left")
    if columns:
        bottom = tops.pop(rows_above) + columns_height
        for index, label in enumerate(columns):
            middle = left + index * (width + GAP) + width // 2
            label.write(pen, (middle, bottom - label.height), "center")
    for row, images in enumerate(cells):
        if rows:
            label_y = tops[row] + (row_heights[row] - rows[row].height) // 2
            rows[row].write(pen, (left - MARGIN, label_y), "right")
        y = tops[row] + (row_heights[row] - height) // 2
        for column, image in enumerate(images):
            x = left + column * (width + GAP)
            if image is None:
                pen.rectangle((x, y, x + width - 1, y + height - 1), fill=PALE)
            else:
                enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
                sheet.paste(enlarged, (x, y))
    return sheet
