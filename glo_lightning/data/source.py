"""What images come from: anything with a length, ``read(i)``, ``key(i)`` and a fingerprint."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from glo_lightning.errors import InputError, OnError
from glo_lightning.images import Encoded, NotAnImageError, decode_image

log = logging.getLogger(__name__)


class Source(Protocol):
    """Images by index; a class of one's own needs no base class.

    ``read(i)`` gives the image of row i, of any size: encoded bytes, an image of Pillow's, or uint8 pixels (C, H, W), C
    1 or 3; or raises InputError. ``key(i)`` names it, whatever else is in the source. ``fingerprint`` is a tuple of
    plain values: the first is the source's place, the others change with its content. Workers and threads read at once.
    A source may have ``labels(i)``, which gives what is known of the image: a value, a text, by name.
    """

    def __len__(self) -> int: ...

    def read(self, index: int, /) -> Encoded | Tensor: ...

    def key(self, index: int, /) -> bytes: ...

    @property
    def fingerprint(self) -> tuple[Any, ...]: ...


class FirstImages:
    """The first images of a source.

    Args:
        source: of all images.
        num_images: how many of them.
        key: the argument that says so.

    Raises:
        InputError: for a number that it does not have.
    """

    def __init__(self, source: Source, num_images: int, key: str = "num_samples"):
        if not 1 <= num_images <= len(source):
            remedy = f"{source.fingerprint[0]} has {len(source)} images: give 1 to {len(source)}"
            raise InputError(key, num_images, remedy)
        self.source, self.num_images = source, num_images
        self.fingerprint = source.fingerprint

    def __len__(self) -> int:
        return self.num_images

    def read(self, index: int) -> Encoded | Tensor:
        return self.source.read(index)

    def key(self, index: int) -> bytes:
        return self.source.key(index)

    def labels(self, index: int) -> dict[str, str]:
        return labels_of(self.source, index)

    @property
    def keys(self) -> np.ndarray:
        return key_table(self.source)[: len(self)]


class JoinedSource:
    """The images of several sources, one after the other: a set's training and held-out parts, or LSUN's classes."""

    def __init__(self, parts: Sequence[Source]):
        self.parts = list(parts)
        self.ends = list(itertools.accumulate(map(len, self.parts)))
        places = [str(part.fingerprint[0]) for part in self.parts]
        self.fingerprint = (", ".join(places), *(part.fingerprint[1:] for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def _find(self, index: int) -> tuple[Source, int]:
        part = bisect.bisect_right(self.ends, index)
        return self.parts[part], index - ([0, *self.ends][part])

    def read(self, index: int) -> Encoded | Tensor:
        part, row = self._find(index)
        return part.read(row)

    def key(self, index: int) -> bytes:
        part, row = self._find(index)
        return part.key(row)

    def labels(self, index: int) -> dict[str, str]:
        return labels_of(*self._find(index))


def labels_of(source: Source, index: int) -> dict[str, str]:
    """What a source knows of an image, a value by name; nothing where it has no labels."""
    labels = getattr(source, "labels", None)
    return {} if labels is None else labels(index)


def digest_order(keys: Sequence[bytes]) -> list[int]:
    """The positions of the keys in the order of their SHA-256.

    So what comes sorted by class is drawn fairly by its first images and its last, in one order on every machine.
    """
    return sorted(range(len(keys)), key=lambda position: hashlib.sha256(keys[position]).digest())


def read_image(source: Source, index: int, image_size: int) -> Tensor:
    """The image of row ``index``, uint8 (3, image_size, image_size).

    Raises:
        InputError: for a record that is no image, or is gone.
    """
    if not 0 <= index < len(source):
        raise IndexError(f"index {index} is not one of 0 to {len(source) - 1}")
    try:
        return decode_image(source.read(index), image_size)
    except NotAnImageError as error:
        key = source.key(index).decode(errors="backslashreplace")
        remedy = f"is not an image ({error}); leave it out by --data.on_bad_record skip"
        raise InputError(f"key {key} of", source.fingerprint[0], remedy) from error


def key_table(source: Source, num_rows: int | None = None) -> np.ndarray:
    """The keys of the first rows, or of all: (n,) records of ``length`` and zero-padded ``key`` bytes."""
    kept = getattr(source, "keys", None)  # an LMDB's, mapped from a file
    if kept is not None:
        return kept[:num_rows]
    keys = [source.key(row) for row in range(len(source))][:num_rows]
    dtype = np.dtype([("length", "<u2"), ("key", f"V{max(map(len, keys))}")])
    return np.array([(len(key), key) for key in keys], dtype)


def keys_digest(source: Source, num_rows: int | None = None) -> str:
    """SHA-256 of the keys of the first rows, or of all: it ties a latent table to its images."""
    table = key_table(source, num_rows)
    width = int(table["length"].max())  # of these rows alone: a prefix has one digest, whatever follows it
    return hashlib.sha256(table["length"].tobytes() + table["key"].astype(f"V{width}").tobytes()).hexdigest()


class StreamedImages(Dataset[tuple[Tensor, Any]]):
    """The images of a source by index, read whenever they are wanted: ``dataset[i] -> (image, i)``.

    A list of B indices gives a batch: images (B, 3, H, W), uint8, and indices (B,).

    Args:
        source: where the images come from.
        image_size: H and W.
        on_bad_record: ``raise``, or ``skip`` records that are no images: batches lack them, with a warning.
    """

    def __init__(self, source: Source, image_size: int, on_bad_record: OnError = "raise"):
        self.source, self.image_size, self.on_bad_record = source, image_size, on_bad_record

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Any]:
        if not isinstance(index, Sequence):
            return read_image(self.source, index, self.image_size), index
        images, rows = [], []
        for row in index:
            try:
                images.append(read_image(self.source, row, self.image_size))
                rows.append(row)
            except InputError as error:
                if self.on_bad_record == "raise":
                    raise
                log.warning("%s", error)
        none = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return torch.stack(images) if images else none, torch.tensor(rows, dtype=torch.long)
