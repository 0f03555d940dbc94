"""Images in rows and columns, with texts that explain them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glo_lightning.images import to_uint8

MARGIN, GAP, SIZE = 8, 4, 64  # pixels; images smaller than SIZE are enlarged
Cell = Image.Image | str | None
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def picture(
    rows: Sequence[Sequence[Tensor | str | None]],
    title: str = "",
    columns: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> Image.Image:
    """Lay images out in rows and label them, black on white.

    Args:
        rows: of cells: an image (C, H, W), uint8 or float in [-1, 1]; a short text such as ``=``; or None for a gap.
        title: a line above everything.
        columns: a text above each column.
        captions: a text to the left of each row.
    """
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
    cells: list[list[Cell]] = [[enlarge(c, SIZE) if isinstance(c, Tensor) else c for c in row] for row in rows]
    columns = [*columns, *[""] * (max(map(len, cells)) - len(columns))]
    captions = [*captions, *[""] * (len(cells) - len(captions))]
    widths, heights = _cell_sizes(cells, [_width(text, small) for text in columns], font)
    left = MARGIN + max(_width(text, small) + 2 * GAP if text else 0 for text in captions)
    top = MARGIN + _height([title]) + _height(columns)
    total = left + sum(widths) + GAP * (len(columns) - 1) + MARGIN
    total = max(total, 2 * MARGIN + _width(title, font))
    canvas = Image.new("RGB", (total, top + sum(heights) + GAP * (len(cells) - 1) + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, "black", font)
    y = top
    for row, caption, row_height in zip(cells, captions, heights, strict=True):
        draw.text((MARGIN, y + row_height / 2), caption, "black", small, anchor="lm")
        x = left
        for cell, column_width in zip(row, widths, strict=False):
            if isinstance(cell, str):
                draw.text((x + column_width / 2, y + row_height / 2), cell, "black", font, anchor="mm", align="center")
            elif cell is not None:
                canvas.paste(cell, (x + (column_width - cell.width) // 2, y))
            x += column_width + GAP
        y += row_height + GAP
    x = left
    for text, column_width in zip(columns, widths, strict=True):
        draw.text((x + column_width / 2, top - 6), text, "black", small, anchor="md", align="center")
        x += column_width + GAP
    return canvas


def _cell_sizes(cells: list[list[Cell]], widths: list[int], font: Font) -> tuple[list[int], list[int]]:
    """The widths of columns, at least those passed, and the heights of rows."""
    heights = [0] * len(cells)
    for j, row in enumerate(cells):
        for i, cell in enumerate(row):
            if isinstance(cell, str):
                widths[i] = max(widths[i], _width(cell, font))
            elif cell is not None:
                widths[i], heights[j] = max(widths[i], cell.width), max(heights[j], cell.height)
    return widths, heights


def _width(text: str, font: Font) -> int:
    return max(int(font.getlength(line)) for line in text.split("\n"))


def _height(texts: Sequence[str]) -> int:
    return max((18 * len(text.split("\n")) + 6 for text in texts if text), default=0)


def enlarge(image: Tensor, size: int) -> Image.Image:
    """Enlarge an image (C, H, W), uint8 or in [-1, 1], by a whole factor to at least ``size`` pixels a side."""
    if image.is_floating_point():
        image = to_uint8(image)
    image = image.expand(3, -1, -1)  # grey as RGB
    factor = -(-size // image.shape[-1])
    image = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
