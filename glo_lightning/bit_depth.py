"""How many bits an image's pixels have, with which sign, and which values are white or transparent: as its file states.

Pillow leaves this to its callers for images of more than 8 bits, and reads some of them wrong.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image

from glo_lightning.errors import NotAnImageError

BITS, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
WHITE_IS_ZERO, YCBCR, SIGNED, SEPARATE = 0, 6, 2, 2  # their values


def load_8_bits(image: Any) -> Image.Image:
    """Loads an opened Pillow image, and scales its pixels to 8 bits where they have more or are signed.

    What is transparent in the result is so in Pillow's sense.

    Raises:
        NotAnImageError: for pixels whose black and white are not stated, and planes that Pillow reads wrong.
    """
    _correct_planes(image)
    decoders = [str(tile[3]) for tile in getattr(image, "tile", [])]  # such as RGB;16B, L;2
    colour = image.info.get("transparency") if image.format == "PNG" else None
    transparent = _find_colour(image, colour) if colour is not None and decoders == ["RGB;16B"] else None
    image.load()
    if image.mode.startswith("I") or image.mode == "F" or _tag(image, SAMPLE_FORMAT) == SIGNED:
        return _scale(image)
    if any(";16" in decoder for decoder in decoders) and image.mode in ("RGB", "RGBA"):
        _warn_of_unused_bits(16, 256 * max(most for _, most in image.getextrema()[:3]))
    if transparent is not None:
        image = image.convert("RGB")
        image.putalpha(transparent)
    elif isinstance(colour, int) and decoders in (["L;2"], ["L;4"]):
        image.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[decoders[0]]  # Pillow has scaled the pixels alone
    return image


def _tag(image: Any, tag: int) -> Any:
    """Returns the first value of a TIFF's tag; None without it, and in other formats."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _correct_planes(image: Any) -> None:
    """Corrects the decoder of uncompressed TIFF planes of 16 bits, each of which Pillow reads as if it had 8."""
    if _tag(image, PLANES) != SEPARATE or not image.tile:
        return
    is_deep = _tag(image, BITS) == 16 and image.tile[0][0] == "raw"
    if _tag(image, PHOTOMETRIC) == YCBCR or (is_deep and image.mode not in ("RGB", "RGBA")):
        raise NotAnImageError("a TIFF of separate planes of CMYK or YCbCr, which Pillow reads wrong")
    if is_deep:
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        image.tile = [_with_arguments(tile, (f"{tile[3][0]};16{order}", *tile[3][1:])) for tile in image.tile]


def _with_arguments(tile: Any, arguments: Any) -> Any:
    """Returns the description of an undecoded part of an image, with other arguments for its decoder."""
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)  # Pillow 11, 10


def _find_colour(image: Any, colour: tuple[int, int, int]) -> Image.Image:
    """Returns an alpha channel, 0 where a PNG of 16-bit colours has this one.

    Pillow keeps the upper 8 bits of a pixel. The image is read twice more, for both halves.
    """
    position = image.fp.tell()
    image.fp.seek(0)
    record = image.fp.read()
    image.fp.seek(position)
    is_equal = np.ones((image.height, image.width), bool)
    for order, shift in (("B", 8), ("L", 0)):
        half: Any = Image.open(io.BytesIO(record), formats=["PNG"])
        half.tile = [_with_arguments(tile, f"RGB;16{order}") for tile in half.tile]
        is_equal &= (np.asarray(half) == [value >> shift & 255 for value in colour]).all(-1)
    return Image.fromarray(np.where(is_equal, 0, 255).astype(np.uint8))


def _scale(image: Image.Image) -> Image.Image:
    """Scales grey pixels of more than 8 bits, or signed ones, from the least to the greatest possible value to L or LA.

    A TIFF's tags state the bits, the sign and which end is white. In other formats it is 16 bits, unsigned.
    """
    is_tiff, values = image.format == "TIFF", np.asarray(image)
    if image.mode == "F" or (not is_tiff and (values.min() < 0 or values.max() > 65535)):
        raise NotAnImageError(f"of {values.dtype} pixels, whose black and white are not stated")
    if image.format == "FITS":
        raise NotAnImageError("a FITS of more than 8 bits, whose zero and scale Pillow ignores")
    bits = _tag(image, BITS) if is_tiff else 16
    is_signed = _tag(image, SAMPLE_FORMAT) == SIGNED
    values = values.astype(np.uint32) & (2**bits - 1)
    zero = 2 ** (bits - 1) if is_signed else 0
    values ^= zero  # the smallest signed value becomes 0
    _warn_of_unused_bits(bits - is_signed, max(int(values.max()) - zero, zero - int(values.min())))
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO and bits > 8:  # Pillow inverts 8 bits
        values ^= 2**bits - 1
    scaled = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if isinstance(image.info.get("transparency"), int):
        scaled.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return scaled


def _warn_of_unused_bits(bits: int, most: int) -> None:
    """Warns of pixels that use the lowest sixteenth of their range, as images of microscopes often do."""
    if bits > 8 and 0 < most < 2 ** (bits - 4):
        text = f"its pixels use less than a sixteenth of the range of their {bits} bits, and show hardly any contrast"
        warnings.warn(text, stacklevel=2)
