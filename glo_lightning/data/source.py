"""What images come from: anything with a length, ``read(i)``, ``key(i)`` and a fingerprint."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from glo_lightning.errors import InputError, OnError, ReadError
from glo_lightning.images import Encoded, ImageFormat, NotAnImageError, decode_image, reading_image

log = logging.getLogger(__name__)

Labels = Callable[[int], dict[str, str]]
SAMPLED_RECORDS = 1024  # by which images are told from others; all of LSUN would take minutes


class Source(Protocol):
    """Images by index; a class of one's own needs no base class.

    ``read(i)`` gives the image of row i, of any size: encoded bytes, an image of Pillow's, or uint8 pixels (C, H, W), C
    1 or 3; or raises InputError. ``key(i)`` names it, whatever else is in the source. ``fingerprint`` is a tuple of
    plain values: the first is the source's place, the others change with its content. Workers and threads read at once.
    A source may have ``labels(i)``, which gives what is known of the image: a value, a text, by name (None in its place
    where nothing is known of any); and ``channels``, 1 where all its images are grey.
    """

    def __len__(self) -> int: ...

    def read(self, index: int, /) -> Encoded | Tensor: ...

    def key(self, index: int, /) -> bytes: ...

    @property
    def fingerprint(self) -> tuple[Any, ...]: ...


class _View:
    """The images of other sources in an order of its own; a ``Source``, whose subclasses say which row is which.

    Args:
        sources: the images come from these.
        fingerprint: see ``Source``.
    """

    def __init__(self, sources: Sequence[Source], fingerprint: tuple[Any, ...]):
        self.sources, self.fingerprint = list(sources), fingerprint

    def _find(self, index: int) -> tuple[Source, int]:
        """The source of row ``index``, and its row there."""
        raise NotImplementedError

    def read(self, index: int) -> Encoded | Tensor:
        source, row = self._find(index)
        return source.read(row)

    def key(self, index: int) -> bytes:
        source, row = self._find(index)
        return source.key(row)

    @property
    def labels(self) -> Labels | None:
        return self._labels_of_row if any(map(labels_of, self.sources)) else None

    def _labels_of_row(self, index: int) -> dict[str, str]:
        source, row = self._find(index)
        labels = labels_of(source)
        return labels(row) if labels else {}

    @property
    def channels(self) -> int:
        return max(map(channels_of, self.sources))


class HeadSource(_View):
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
        super().__init__([source], source.fingerprint)
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def _find(self, index: int) -> tuple[Source, int]:
        return self.sources[0], index

    @property
    def keys(self) -> np.ndarray:
        return key_table(self.sources[0])[: len(self)]


class ConcatSource(_View):
    """The images of several sources, one after the other: a set's training and held-out parts, or LSUN's classes."""

    def __init__(self, sources: Sequence[Source]):
        places = ", ".join(str(source.fingerprint[0]) for source in sources)
        super().__init__(sources, (places, *(source.fingerprint[1:] for source in sources)))
        self.ends = list(itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self.ends[-1]

    def _find(self, index: int) -> tuple[Source, int]:
        number = bisect.bisect_right(self.ends, index)
        return self.sources[number], index - ([0, *self.ends][number])


class MirroredSource(_View):
    """The first images of a source with their mirror images, then the others as they are.

    Row 2i is image i, and row 2i + 1 its mirror image, for the first ``num_mirrored``. ``read`` gives both as they lie
    there; ``read_image`` mirrors the second.
    """

    def __init__(self, source: Source, num_mirrored: int):
        place, *state = source.fingerprint
        super().__init__([source], (f"{place}, {num_mirrored} mirrored", *state))
        self.num_mirrored = num_mirrored

    def __len__(self) -> int:
        return self.num_mirrored + len(self.sources[0])

    def _find(self, index: int) -> tuple[Source, int]:
        return self.sources[0], max(index // 2, index - self.num_mirrored)

    def is_mirrored(self, index: int) -> bool:
        """Whether row ``index`` is a mirror image."""
        return index % 2 == 1 and index < 2 * self.num_mirrored

    def key(self, index: int) -> bytes:
        return super().key(index) + (b" mirrored" if self.is_mirrored(index) else b"")


def channels_of(source: Source) -> int:
    """1 where a source says that all its images are grey, else 3."""
    return getattr(source, "channels", 3)


def labels_of(source: Source) -> Labels | None:
    """What gives a source's labels of an image, a value by name; None where it has none."""
    return getattr(source, "labels", None)


def digest_order(keys: Sequence[bytes]) -> list[int]:
    """The positions of the keys in the order of their SHA-256.

    So what comes sorted by class is drawn fairly by its first images and its last, in one order on every machine.
    """
    return sorted(range(len(keys)), key=lambda position: hashlib.sha256(keys[position]).digest())


def numbered_key(split: str, number: int) -> bytes:
    """The key of an image that has no name of its own: the split and its number in there."""
    return f"{split}/{number}".encode()


def numbered_order(split: str, num_images: int) -> list[int]:
    """The numbers of a split's images in the order of the SHA-256 of their keys."""
    return digest_order([numbered_key(split, number) for number in range(num_images)])


def dataset_location(root: object, split: str, name: str = "") -> str:
    """The place of a split, and of a set by name, in a root that may hold several: each has a store of its own."""
    return ", ".join(filter(None, (str(root), name, "" if split == "train" else f"split {split}")))


def file_stamp(path: Path) -> tuple[int, int]:
    """What changes with a file: its size and the time it was written, in ns."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def read_image(source: Source, index: int, image_format: ImageFormat) -> Tensor:
    """The image of row ``index``, uint8 (C, H, W); see ``decode_image``.

    Raises:
        InputError: for a record that is no image.
        ReadError: for one that is gone, or that the disk does not give.
    """
    if not 0 <= index < len(source):
        raise IndexError(f"index {index} is not one of 0 to {len(source) - 1}")
    if isinstance(source, MirroredSource):
        image = read_image(*source._find(index), image_format)
        return image.flip(-1) if source.is_mirrored(index) else image
    try:
        return decode_image(source.read(index), image_format)
    except NotAnImageError as error:
        remedy = f"is not an image ({error}); leave it out by --data.on_invalid_image skip"
        raise InputError(f"key {key_text(source, index)} of", source.fingerprint[0], remedy) from error
    except OSError as error:
        remedy = f"cannot be read ({error.strerror or error}). Check the disk, and start again"
        raise ReadError(f"key {key_text(source, index)} of", source.fingerprint[0], remedy) from error


def key_text(source: Source, index: int) -> str:
    """The key of row ``index``, for a message."""
    return source.key(index).decode(errors="backslashreplace")


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


def sampled_rows(num_rows: int) -> list[int]:
    """All rows, or 1,024 of them, evenly spaced."""
    return np.linspace(0, num_rows - 1, min(num_rows, SAMPLED_RECORDS)).astype(int).tolist()


def record_digests(source: Source, num_rows: int) -> list[int]:
    """A digest, 63 bits of SHA-256, of each of the sampled rows' records, as they are read; 0 for one that is not.

    They tie a latent table to what its images show, as ``keys_digest`` does to their names.
    """
    return [_record_digest(source, row) for row in sampled_rows(num_rows)]


def _record_digest(source: Source, row: int) -> int:
    try:
        with reading_image():
            record = source.read(row)
            content = record if isinstance(record, bytes) else np.asarray(record).tobytes()
    except (InputError, NotAnImageError, OSError):
        return 0
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") >> 1 or 1


class StreamingDataset(Dataset[tuple[Tensor, Any]]):
    """The images of a source by index, read whenever they are wanted: ``dataset[i] -> (image, i)``.

    A list of B indices gives a batch: images (B, C, H, W), uint8, and indices (B,).

    Args:
        source: where the images come from.
        image_format: what they are made to be.
        on_invalid_image: ``raise``, or ``skip`` records that are no images: batches lack them, with a warning.
    """

    def __init__(self, source: Source, image_format: ImageFormat, on_invalid_image: OnError = "raise"):
        self.source, self.image_format, self.on_invalid_image = source, image_format, on_invalid_image

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Any]:
        if not isinstance(index, Sequence):
            return self._read(index), index
        images, rows = [], []
        for row in index:
            try:
                images.append(self._read(row))
                rows.append(row)
            except InputError as error:
                if self.on_invalid_image == "raise":
                    raise
                log.warning("%s", error)
        none = torch.empty(0, *self.image_format.shape, dtype=torch.uint8)
        return torch.stack(images) if images else none, torch.tensor(rows, dtype=torch.long)

    def _read(self, row: int) -> Tensor:
        return read_image(self.source, row, self.image_format)
