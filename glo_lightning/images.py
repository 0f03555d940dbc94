"""The one owner of pixels: bytes to RGB, and uint8 to [-1, 1] to [0, 1] and back."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Encoded = bytes | Image.Image
Crop = Literal["center", "none"]
STARTS_PROGRAMS = ("EPS", "IPTC")  # formats for which Pillow starts Ghostscript; IPTC may hold an EPS
DECODING = 2  # what ``decode_image`` makes of bytes: another number where pixels change; 2 uses JPEG's draft mode
# what Pillow's readers raise of damaged files; libavif a RuntimeError
DAMAGED = (ValueError, SyntaxError, OverflowError, RuntimeError, LookupError, TypeError, EOFError, MemoryError)


class ImageFormat(NamedTuple):
    """What every image is made to be: uint8, of ``shape``.

    Attributes:
        size: H and W.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma).
        crop: ``center`` of what is not square; ``none`` resizes both sides, to a square.
    """

    size: int
    channels: int = 3
    crop: Crop = "center"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.size, self.size


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8, rounded; what lies outside is clipped."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).byte()


def to_unit(images: Tensor) -> Tensor:
    """Images in [-1, 1] to float32 in [0, 1], as metrics and picture files have them."""
    return images.float() / 2 + 0.5


def psnr(generated: Tensor, images: Tensor, per_image: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB of images (B, ...) in [-1, 1]: over all pixels, (), or of each image, (B,)."""
    squares = (to_unit(generated) - to_unit(images)).square()
    return -10 * torch.log10(squares.flatten(1).mean(dim=1) if per_image else squares.mean())


class NotAnImageError(ValueError):
    """Bytes that Pillow does not read as an image; its text says why."""


@contextlib.contextmanager
def reading_image() -> Iterator[None]:
    """Turns whatever Pillow raises about bytes that are no image into NotAnImageError.

    Raises:
        NotAnImageError: for what is no image.
        OSError: when the disk fails.
    """
    try:
        yield
    except UnidentifiedImageError as error:
        raise NotAnImageError("of no known format") from error
    except OSError as error:
        if error.errno is not None:  # the disk's: no verdict on the image
            raise
        raise NotAnImageError(" ".join(str(error).split()) or type(error).__name__) from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise NotAnImageError(" ".join(str(error).split()) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB: transparency laid on white, 16-bit greys scaled, turned as its EXIF tag says."""
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # Pillow would copy the others
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_image(image: Encoded | Tensor, image_format: ImageFormat) -> Tensor:
    """Makes a uint8 image (C, H, W) of that format of encoded bytes, an image of Pillow's, or pixels.

    The shorter side is resized (bilinear, antialiased) and the centre cropped, in one step. Of an animation the first
    image is taken. A large JPEG is decoded at an eighth, a quarter or half of its size: pixels differ by less than half
    a level of 255 on average.

    Args:
        image: WebP, JPEG, PNG or whatever Pillow reads; an image of Pillow's; or uint8 (C, H, W), C 1 or 3.
        image_format: its size, channels and crop.

    Raises:
        NotAnImageError: for what is no image.
    """
    if isinstance(image, Tensor) and image.shape == image_format.shape:
        return image
    size, mode = image_format.shape[1:], "L" if image_format.channels == 1 else "RGB"
    with reading_image():
        made = from_pixels(image) if isinstance(image, Tensor) else _decoded(image, image_format.size)
        made = made if made.mode == mode else made.convert(mode)
        bilinear = Image.Resampling.BILINEAR
        made = made.resize(size, bilinear) if image_format.crop == "none" else ImageOps.fit(made, size, bilinear)
    pixels = torch.from_numpy(np.array(made))
    return pixels[None] if image_format.channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _decoded(image: Encoded, image_size: int) -> Image.Image:
    """As RGB; a large JPEG smaller than it is."""
    with opened(image) as source:
        if source.format == "JPEG":
            source.draft(None, _draft_size(source.width, source.height, image_size))
        return to_rgb(source)


def _draft_size(width: int, height: int, image_size: int) -> tuple[int, int]:
    """The size to decode a JPEG at: three times the one wanted or more, and such that no row or column is cut."""
    fits = (scale for scale in (8, 4, 2) if min(width, height) >= 3 * scale * image_size)
    scale = next((scale for scale in fits if width % scale == height % scale == 0), 1)
    return width // scale, height // scale


def from_pixels(pixels: Tensor) -> Image.Image:
    """An image of Pillow's, grey or RGB, of uint8 pixels (C, H, W), C 1 or 3."""
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())


def opened(image: Encoded) -> Image.Image:
    """An image of Pillow's, not decoded yet if it is of bytes.

    Raises:
        NotAnImageError: for more pixels than Pillow takes for a decompression bomb: it would warn, and fill the memory;
            and for a format that another program would have to read.
    """
    image = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
    if image.format in STARTS_PROGRAMS:
        raise NotAnImageError(f"{image.format}, for which Ghostscript would be started")
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise NotAnImageError(f"of {image.width}x{image.height} pixels, more than {most}")
    return image
