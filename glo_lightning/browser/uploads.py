"""Image files that came from the browser, in memory."""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat, NotAnImageError, decode_image, reading_image

MAX_PIXELS = 50_000_000  # of an upload
MAX_KEPT = 64  # uploads in memory


@dataclass
class Upload:
    """An uploaded image: the name of its file, its pixels (C, H, W), uint8, and its code once that is computed."""

    file: str
    pixels: Tensor
    code: Tensor | None = None


class Uploads:
    """The newest uploads, by name: ``upload-3``."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._uploads: OrderedDict[str, Upload] = OrderedDict()

    def add(self, record: bytes, file: str, image_format: ImageFormat) -> tuple[str, Upload]:
        """Decode a still image's bytes, at most 50 megapixels; return the upload and its name."""
        file = re.split(r"[/\\]", file)[-1][:200] or "image"
        file = f"./{file}" if file.startswith("-") or file.isdigit() else file  # so that a command reads it as a file
        try:
            _check(record, file)
            upload = Upload(file, decode_image(record, image_format))
        except NotAnImageError as error:
            raise InputError("upload", file, f"is not an image ({error}). Give a PNG, JPEG or WebP.") from error
        name = f"upload-{next(self._numbers)}"
        keep_newest(self._uploads, name, upload)
        return name, upload

    def __getitem__(self, name: str) -> Upload:
        try:
            return self._uploads[name]
        except KeyError as error:
            raise InputError("upload", name, "is no longer kept. Choose the file again.") from error


def is_upload(name: str) -> bool:
    return name.startswith("upload-")


def keep_newest(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Add an item; forget the oldest beyond ``MAX_KEPT``."""
    kept[key] = value
    while len(kept) > MAX_KEPT:
        kept.popitem(last=False)


def _check(record: bytes, file: str) -> None:
    """Raise InputError for bytes that are not a still image of a moderate size; nothing is decoded."""
    with warnings.catch_warnings(), reading_image():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS are fewer
        with Image.open(io.BytesIO(record)) as opened:
            pixels, animated = math.prod(opened.size), getattr(opened, "is_animated", False)
    if pixels > MAX_PIXELS:
        raise InputError("upload", file, f"has more than {MAX_PIXELS // 10**6} megapixels. Make it smaller.")
    if animated:
        raise InputError("upload", file, "is animated. Give a still image.")
