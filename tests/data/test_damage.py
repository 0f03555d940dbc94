"""A thousand files of each format, damaged at random places, are an image or an InputError, in bounded memory."""

import resource
import time

import numpy as np
import pytest
from conftest import encode
from damage import outcomes
from PIL import Image, features

from glo_lightning.images import ImageFormat, NotAnImageError, decode_image

PICTURES = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"] + (["AVIF"] if features.check("avif") else [])
MAX_BYTES = 1 << 30  # memory that a damaged file may take
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs


@pytest.fixture(autouse=True)
def in_time_and_memory():
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_BYTES
    assert time.monotonic() - start < 120


@pytest.mark.parametrize("file_format", PICTURES)
def test_damaged_pictures(file_format):
    ramp = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)
    whole = encode(np.stack([ramp, 2 * ramp, 255 - ramp], -1), file_format)
    found = outcomes(whole, lambda content: decode_image(content, ImageFormat(32)).shape, 1000)
    assert {1} <= found <= {(3, 32, 32), 1}


def test_an_image_of_too_many_pixels_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(NotAnImageError, match="of 40x40 pixels, more than 1000"):
        decode_image(encode(np.zeros((40, 40, 3), np.uint8)), ImageFormat(32))
    with pytest.raises(NotAnImageError):
        decode_image(encode(np.zeros((90, 90, 3), np.uint8)), ImageFormat(32))
