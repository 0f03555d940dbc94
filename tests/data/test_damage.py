"""Files of each image format, damaged at random places, are an image or one line, in bounded time and memory."""

import io
import resource
import time

import numpy as np
import pytest
from conftest import encode
from damage import outcomes
from odd_images import RAMP, exif, png, tiff
from PIL import Image, features

from glo_lightning.images import ImageFormat, NotAnImageError, decode_image

RGB = np.add.outer(np.arange(48), np.arange(40))[..., None] * [1, 2, 3] % 256
DEEP = (RAMP * 65535).astype("<u2").tobytes()
TURNED = b"Exif\0\0" + exif((274, 3, 1, b"\6\0\0\0"))


def written(file_format: str, mode: str = "RGB", **options) -> bytes:
    """A picture as Pillow writes it."""
    image = Image.fromarray(RGB.astype(np.uint8))
    image = Image.fromarray(np.arange(1920, dtype=np.uint16).reshape(48, 40) * 34) if mode == "I;16" else image
    file = io.BytesIO()
    image.convert(mode).save(file, file_format, **options)
    return file.getvalue()


PICTURES = {
    **{name: written(name) for name in ("BMP", "DDS", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM")},
    **{name: written(name) for name in ("SGI", "TGA", "TIFF", "WEBP")},
    **{f"{name} of bits": written(name, "1") for name in ("MSP", "PNG", "PPM", "TIFF", "XBM")},
    **{f"{name} of 16 bits": written(name, "I;16") for name in ("JPEG2000", "PNG", "PPM", "TIFF")},
    **{f"{name}, palette": written(name, "P") for name in ("BLP", "BMP", "PCX", "PNG", "TGA", "TIFF")},
    **{f"{name}, alpha": written(name, "RGBA") for name in ("DDS", "PNG", "SGI", "TGA", "TIFF", "WEBP")},
    **{f"TIFF, {name}": written("TIFF", compression=f"tiff_{name}") for name in ("lzw", "adobe_deflate")},
    "TIFF, jpeg": written("TIFF", compression="jpeg"),
    "TIFF, group4": written("TIFF", "1", compression="group4"),
    "TIFF of 12 bits": tiff(8, 8, [12], [DEEP[:96]], {}),
    "TIFF, signed": tiff(8, 8, [16], [DEEP], {339: [2]}),
    "TIFF, planes": tiff(8, 8, [16] * 3, [DEEP] * 3, {262: [2], 284: [2]}),
    "PNG, 16 bits and tRNS": png(8, 8, 2, 16, [bytes(range(48))] * 8, (b"tRNS", bytes(6))),
    "PNG, 2 bits and tRNS": png(8, 8, 0, 2, [b"\x1b\xb1"] * 8, (b"tRNS", b"\0\1")),
    "CMYK JPEG": written("JPEG", "CMYK"),
    "progressive JPEG": written("JPEG", progressive=True),
    "turned JPEG": written("JPEG", exif=TURNED),
    "turned PNG": written("PNG", exif=TURNED),
    "turned TIFF": written("TIFF", exif=TURNED),
    "MPO": written("MPO", save_all=True, append_images=[Image.new("RGB", (40, 48))]),
    "animated WEBP": written("WEBP", save_all=True, append_images=[Image.new("RGB", (40, 48))]),
    "lossless WEBP": written("WEBP", lossless=True),
    "ICO": written("ICO", sizes=[(16, 16), (32, 32)]),
    "RLE TGA": written("TGA", compression="tga_rle"),
    **({"AVIF": written("AVIF", speed=10)} if features.check("avif") else {}),
}
MAX_BYTES = 1 << 30  # memory that a damaged file may take
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs


@pytest.fixture(autouse=True)
def in_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_BYTES


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("times", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_damaged_picture_is_an_image_or_one_line(kind, times, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 22)  # a damaged size may be any; larger ones take seconds
    start, whole = time.monotonic(), PICTURES[kind]
    assert decode_image(whole, ImageFormat(32)).shape == (3, 32, 32)
    found = outcomes(whole, lambda content: decode_image(content, ImageFormat(32)).shape, times)
    assert {1} <= found <= {(3, 32, 32), 1}
    assert time.monotonic() - start < 0.2 * times


def test_an_image_of_too_many_pixels_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(NotAnImageError, match="of 40x40 pixels, more than 1000"):
        decode_image(encode(np.zeros((40, 40, 3), np.uint8)), ImageFormat(32))
    with pytest.raises(NotAnImageError):
        decode_image(encode(np.zeros((90, 90, 3), np.uint8)), ImageFormat(32))
