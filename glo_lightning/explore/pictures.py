"""Images laid out and labelled, so that a stranger can tell what they are."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glo_lightning.images import to_uint8


def picture(
    rows: Sequence[Sequence[Tensor | str | None]],
    title: str = "",
    columns: Sequence[str] = (),
    captions: Sequence[str] = (),
    size: int = 64,
) -> Image.Image:
    """Lays images out in rows and labels them, black on white.

    Args:
        rows: of cells: an image (C, H, W), uint8 or float in [-1, 1]; a short text such as ``=``; or None for a gap.
        title: a line above all.
        columns: a text above each column.
        captions: a text to the left of each row.
        size: of an image in the picture, in pixels; smaller ones are enlarged to the next multiple of their size.
    """
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
    margin, gap = 8, 4

    def width(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
        return max(int(face.getlength(line)) for line in text.split("\n"))

    def height(texts: Sequence[str]) -> int:
        return max((18 * len(text.split("\n")) + 6 for text in texts if text), default=0)

    cells = [[enlarged(cell, size) if isinstance(cell, Tensor) else cell for cell in row] for row in rows]
    num_columns = max(map(len, cells))
    columns = [*columns, *[""] * (num_columns - len(columns))]
    captions = [*captions, *[""] * (len(cells) - len(captions))]
    widths = [width(text, small) for text in columns]
    heights = [0] * len(cells)
    for j, row in enumerate(cells):
        for i, cell in enumerate(row):
            if isinstance(cell, str):
                widths[i] = max(widths[i], width(cell, font))
            elif cell is not None:
                widths[i], heights[j] = max(widths[i], cell.width), max(heights[j], cell.height)
    left = margin + max(width(text, small) + 2 * gap if text else 0 for text in captions)
    top = margin + height([title]) + height(columns)
    total = left + sum(widths) + gap * (num_columns - 1) + margin
    total = max(total, 2 * margin + width(title, font))
    canvas = Image.new("RGB", (total, top + sum(heights) + gap * (len(cells) - 1) + margin), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((margin, margin), title, "black", font)
    y = top
    for row, caption, row_height in zip(cells, captions, heights, strict=True):
        draw.text((margin, y + row_height / 2), caption, "black", small, anchor="lm")
        x = left
        for cell, column_width in zip(row, widths, strict=False):
            if isinstance(cell, str):
                draw.text((x + column_width / 2, y + row_height / 2), cell, "black", font, anchor="mm", align="center")
            elif cell is not None:
                canvas.paste(cell, (x + (column_width - cell.width) // 2, y))
            x += column_width + gap
        y += row_height + gap
    x = left
    for text, column_width in zip(columns, widths, strict=True):
        draw.text((x + column_width / 2, top - 6), text, "black", small, anchor="md", align="center")
        x += column_width + gap
    return canvas


def enlarged(image: Tensor, size: int) -> Image.Image:
    """An image (C, H, W), uint8 or float in [-1, 1], each pixel as often as it takes to be ``size`` pixels wide."""
    if image.is_floating_point():
        image = to_uint8(image)
    image = image.expand(3, -1, -1)  # grey as RGB
    factor = -(-size // image.shape[-1])
    image = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
