"""The images that are trained on: a folder's, or synthetic ones that need no LMDB."""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.source import HeadSource, Source
from glo_lightning.data.sources.lmdb import LMDBSource
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat, decode_image

IMAGE_SIZE = 64
MOST_RECORDS = 512


def synthetic_record(index: int) -> bytes:
    """A WebP of LSUN's size, 341x256 pixels: a coarse pattern, and noise."""
    random = np.random.default_rng(index)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((341, 256), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse) + random.normal(0, 8, (256, 341, 3))
    record = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(record, "WEBP", quality=75)
    return record.getvalue()


class SyntheticSource:
    """N images, each the mean of two of at most 512 patterns; a ``Source``. ``record`` gives one pattern alone."""

    def __init__(self, num_images: int, image_size: int):
        self.num_images = num_images
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            self.records = list(threads.map(synthetic_record, range(min(num_images, MOST_RECORDS))))
        self.patterns = torch.stack([decode_image(record, ImageFormat(image_size)) for record in self.records]) // 2

    def __len__(self) -> int:
        return self.num_images

    def record(self, index: int) -> bytes:
        return self.records[index % len(self.records)]

    def read(self, index: int) -> Tensor:
        further, one = divmod(index, len(self.records))
        return self.patterns[one] + self.patterns[(one + 1 + further) % len(self.records)]

    def key(self, index: int) -> bytes:
        return b"%08d" % index

    @property
    def fingerprint(self) -> tuple[str, int]:
        return ("synthetic", self.num_images)


class Records(HeadSource):
    """The first images of an LMDB, or all; ``record`` gives them as they lie there."""

    def __init__(self, root: str | None, num_images: int | None):
        source = LMDBSource(root)
        super().__init__(source, num_images or len(source), "rows")
        self.record = source.read


class Images(LSUNDataModule):
    """The data module that users have, over one of these sources."""

    def __init__(self, images: Records | SyntheticSource, batch_size: int):
        super().__init__(batch_size=batch_size)
        self.images = images

    @functools.cached_property
    def source(self) -> Source:
        return self.images


def make_source(
    root: str | None, num_images: int | None, batch_sizes: Sequence[int], synthetic: bool
) -> Records | SyntheticSource:
    """The first so many images, those that no whole batch is left for not among them: each size is compiled anew.

    Raises:
        InputError: where no batch is left, and for a root without images.
    """
    number = num_images if synthetic and num_images else len(Records(root, num_images))
    rows = number - number % math.lcm(*batch_sizes)
    if not rows:
        remedy = f"{number} images cannot be shared among batches of these sizes; give smaller ones, or more --rows"
        raise InputError("batch_size", " ".join(map(str, batch_sizes)), remedy)
    return SyntheticSource(rows, IMAGE_SIZE) if synthetic else Records(root, rows)
