"""What images come from: anything with a length, ``read(i)``, ``key(i)`` and a fingerprint."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from glo_lightning.data.lmdb_source import LMDBSource
from glo_lightning.errors import InputError, OnError

log = logging.getLogger(__name__)


class Source(Protocol):
    """Images by index; a class of one's own needs no base class.

    ``read(i)`` gives the image of row i, uint8 (3, H, W), or raises InputError; ``key(i)`` names it, whatever else is
    in the source. ``fingerprint`` is a tuple of plain values: the first is the source's place, the others change with
    its content. Workers and threads read at once. A source may have ``attributes``, see ``Attributes``.
    """

    def __len__(self) -> int: ...

    def read(self, index: int, /) -> Tensor: ...

    def key(self, index: int, /) -> bytes: ...

    @property
    def fingerprint(self) -> tuple[Any, ...]: ...


def key_table(source: Source, num_rows: int | None = None) -> np.ndarray:
    """The keys of the first rows, or of all: (n,) records of ``length`` and zero-padded ``key`` bytes."""
    if isinstance(source, LMDBSource):
        return source.keys[:num_rows]
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
            return self.source.read(index), index
        images, rows = [], []
        for row in index:
            try:
                images.append(self.source.read(row))
                rows.append(row)
            except InputError as error:
                if self.on_bad_record == "raise":
                    raise
                log.warning("%s", error)
        none = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return torch.stack(images) if images else none, torch.tensor(rows, dtype=torch.long)
