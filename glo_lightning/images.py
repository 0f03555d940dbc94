"""Pixels: decodes images, and converts between uint8, [-1, 1] and [0, 1]."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from glo_lightning.bit_depth import load_8_bits
from glo_lightning.errors import NotAnImageError

Encoded = bytes | Image.Image
Crop = Literal["center", "none"]
DECODING = 3  # version of ``decode_image``, raised where its pixels change; 3 reads 12, 16 and signed bits by the tags
AVIF_CROP = b"\0\0\0\x28clap"  # a box of 40 bytes
EXTERNAL_FORMATS = ("EPS", "IPTC")  # Pillow starts Ghostscript for these; IPTC may hold an EPS
EpsImagePlugin.gs_binary = False  # also for whoever calls Pillow without us, such as torchvision
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the orientation in an image's metadata


class ImageFormat(NamedTuple):
    """The format that every image is converted to: uint8, of ``shape``.

    Attributes:
        size: H and W.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma).
        crop: ``center`` crops images that are not square; ``none`` stretches them to a square.
    """

    size: int
    channels: int = 3
    crop: Crop = "center"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.size, self.size


def from_uint8(images: Tensor) -> Tensor:
    """Converts uint8 images to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Converts images in [-1, 1] to uint8, rounded and clipped."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).byte()


def to_unit(images: Tensor) -> Tensor:
    """Converts images in [-1, 1] to float32 in [0, 1], the range of metrics and picture files."""
    return images.float() / 2 + 0.5


def psnr(generated: Tensor, images: Tensor, per_image: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB of images (B, ...) in [-1, 1]: of all pixels, (), or of each image, (B,)."""
    squares = (to_unit(generated) - to_unit(images)).square()
    return -10 * torch.log10(squares.flatten(1).mean(dim=1) if per_image else squares.mean())


@contextlib.contextmanager
def reading_image() -> Iterator[None]:
    """Turns whatever Pillow raises for damaged images into NotAnImageError.

    Raises:
        NotAnImageError: for bytes that are not an image.
        OSError: if the disk fails.
    """
    try:
        yield
    except UnidentifiedImageError as error:
        raise NotAnImageError("of no supported format, or damaged") from error
    except Exception as error:  # Pillow's readers raise errors of any type
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, which says nothing about the image
            raise
        raise NotAnImageError(" ".join(str(error).split()) or f"Pillow ends in {type(error).__name__}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Decodes an opened image to RGB: upright, of 8 bits, and on white where it is transparent; see ``load_8_bits``."""
    source, image = image, load_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    turn = TURNS.get(_orientation(source))  # not earlier: it may load the image
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Returns the orientation in an image's metadata; 1, upright, where the metadata is damaged: the pixels are not."""
    with contextlib.suppress(NotAnImageError), reading_image():
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def decode_image(image: Encoded | Tensor, image_format: ImageFormat) -> Tensor:
    """Decodes an image to uint8 (C, H, W) of the format.

    Resizes the shorter side (bilinear, antialiased) and crops the centre, in one step. An animation gives its first
    image. A large JPEG is decoded at an eighth, a quarter or half of its size, which changes pixels by less than half
    a level of 255 on average.

    Args:
        image: bytes in any format that Pillow reads, a Pillow image, or uint8 (C, H, W) with C 1 or 3.
        image_format: size, channels and crop of the result.

    Raises:
        NotAnImageError: for bytes that are not an image.
    """
    if isinstance(image, Tensor) and image.shape == image_format.shape:
        return image
    size, mode = image_format.shape[1:], "L" if image_format.channels == 1 else "RGB"
    with reading_image():
        decoded = from_pixels(image) if isinstance(image, Tensor) else _decode(image, image_format.size)
        decoded = decoded if decoded.mode == mode else decoded.convert(mode)
        resize = Image.Image.resize if image_format.crop == "none" else ImageOps.fit
        decoded = resize(decoded, size, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(decoded))
    return pixels[None] if image_format.channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _decode(image: Encoded, image_size: int) -> Image.Image:
    """Decodes an image to RGB, a large JPEG at a fraction of its size."""
    with open_image(image) as source:
        size = _draft_size(source.width, source.height, image_size)
        if source.format != "JPEG" or size == source.size:
            return to_rgb(source)
        source.draft(None, size)
        with contextlib.suppress(OSError):  # a lossless JPEG has no fractions
            return to_rgb(source)
    with open_image(image) as source:
        return to_rgb(source)


def _draft_size(width: int, height: int, image_size: int) -> tuple[int, int]:
    """The size to decode a JPEG at: at least three times the wanted size, and no row or column is cut off."""
    fits = (scale for scale in (8, 4, 2) if min(width, height) >= 3 * scale * image_size)
    scale = next((scale for scale in fits if width % scale == height % scale == 0), 1)
    return width // scale, height // scale


def from_pixels(pixels: Tensor) -> Image.Image:
    """Converts uint8 pixels (C, H, W), C 1 or 3, to a Pillow image."""
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())


def open_image(image: Encoded) -> Image.Image:
    """Opens bytes as a Pillow image, without decoding them.

    Raises:
        UnidentifiedImageError: for bytes that Pillow does not read, or only by another program; see ``reading_image``.
        NotAnImageError: for more pixels than Pillow's limit for decompression bombs, where it would warn and fill the
            memory.
    """
    opened = Image.open(io.BytesIO(image), formats=_formats()) if isinstance(image, bytes) else image
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and opened.width * opened.height > most:
        raise NotAnImageError(f"of {opened.width}x{opened.height} pixels, more than {most}")
    if opened.format == "AVIF" and isinstance(image, bytes) and AVIF_CROP in image:
        warnings.warn("Pillow ignores the crop that this AVIF asks for", stacklevel=2)
    return opened


@functools.cache
def _formats() -> list[str]:
    """The formats that Pillow decodes without another program, the usual ones first: each before takes time."""
    Image.init()
    names = [name for name in Image.ID if name not in EXTERNAL_FORMATS]
    return sorted(names, key=lambda name: name not in ("JPEG", "PNG", "WEBP"))
