"""Sources of images: the protocol that every source follows, views of other sources, and helpers for both."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from glo_lightning.errors import InputError, ReadError
from glo_lightning.images import Encoded, ImageFormat, NotAnImageError, decode_image

ADVICE = "Remove it, or skip such images by --data.on_invalid_image skip."
Labels = Callable[[int], dict[str, str]]


class Source(Protocol):
    """Images by index. A custom source needs these methods and no base class.

    ``read(i)`` returns image i at any size: encoded bytes, a Pillow image, or uint8 pixels (C, H, W) with C 1 or 3. It
    may raise InputError. ``key(i)`` is a name that stays with the image when others are added. ``fingerprint`` is a
    tuple of plain values: first the location, then values that change with the content. Several workers and threads
    read at the same time.

    Two more members are optional. ``labels(i)`` returns the image's labels, value by name; ``labels`` is None where no
    image has any. ``channels`` is 1 where all images are grey.
    """

    def __len__(self) -> int: ...

    def read(self, index: int, /) -> Encoded | Tensor: ...

    def key(self, index: int, /) -> bytes: ...

    @property
    def fingerprint(self) -> tuple[Any, ...]: ...


class _View:
    """A source that shows the images of other sources; a subclass says which row shows which image."""

    def __init__(self, sources: Sequence[Source], fingerprint: tuple[Any, ...]):
        self.sources, self.fingerprint = list(sources), fingerprint

    def find(self, index: int) -> tuple[Source, int]:
        """Returns the source of row ``index`` and the row there."""
        raise NotImplementedError

    def read(self, index: int) -> Encoded | Tensor:
        source, row = self.find(index)
        return source.read(row)

    def key(self, index: int) -> bytes:
        source, row = self.find(index)
        return source.key(row)

    @property
    def labels(self) -> Labels | None:
        return self._labels_of_row if any(map(labels_of, self.sources)) else None

    def _labels_of_row(self, index: int) -> dict[str, str]:
        source, row = self.find(index)
        labels = labels_of(source)
        return labels(row) if labels else {}

    @property
    def channels(self) -> int:
        return max(map(channels_of, self.sources))


class HeadSource(_View):
    """The first images of a source.

    Raises:
        InputError: for a number that the source does not have; ``key`` is the argument that gave it.
    """

    def __init__(self, source: Source, num_images: int, key: str = "num_samples"):
        if not 1 <= num_images <= len(source):
            remedy = f"{source.fingerprint[0]} has {len(source)} images. Give 1 to {len(source)}."
            raise InputError(key, num_images, remedy)
        super().__init__([source], source.fingerprint)
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def find(self, index: int) -> tuple[Source, int]:
        return self.sources[0], index

    @property
    def packed_keys(self) -> np.ndarray | None:
        keys = getattr(self.sources[0], "packed_keys", None)
        return None if keys is None else keys[: len(self)]


class ConcatSource(_View):
    """The images of several sources, one source after the other."""

    def __init__(self, sources: Sequence[Source]):
        locations = ", ".join(str(source.fingerprint[0]) for source in sources)
        super().__init__(sources, (locations, *(source.fingerprint[1:] for source in sources)))
        self.ends = list(itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self.ends[-1]

    def find(self, index: int) -> tuple[Source, int]:
        number = bisect.bisect_right(self.ends, index)
        return self.sources[number], index - ([0, *self.ends][number])


class MirroredSource(_View):
    """The first ``num_mirrored`` images of a source, each followed by its mirror image, then the remaining images.

    Row 2i shows image i and row 2i + 1 its mirror image. ``read`` returns the same for both rows; ``read_image``
    mirrors the second after it is decoded, resized and cropped.
    """

    def __init__(self, source: Source, num_mirrored: int):
        location, *state = source.fingerprint
        super().__init__([source], (f"{location}, {num_mirrored} mirrored", *state))
        self.num_mirrored = num_mirrored

    def __len__(self) -> int:
        return self.num_mirrored + len(self.sources[0])

    def find(self, index: int) -> tuple[Source, int]:
        return self.sources[0], max(index // 2, index - self.num_mirrored)

    def is_mirrored(self, index: int) -> bool:
        """Returns whether row ``index`` shows a mirror image."""
        return index % 2 == 1 and index < 2 * self.num_mirrored

    def key(self, index: int) -> bytes:
        return super().key(index) + (b" mirrored" if self.is_mirrored(index) else b"")


def channels_of(source: Source) -> int:
    """Returns 1 where a source says that all its images are grey, else 3."""
    return getattr(source, "channels", 3)


def labels_of(source: Source) -> Labels | None:
    """Returns the function from an index to the image's labels; None where the source has no labels."""
    return getattr(source, "labels", None)


def digest_order(keys: Sequence[bytes]) -> list[int]:
    """Returns the positions of the keys, sorted by the keys' SHA-256.

    It shuffles images that are stored class by class, in the same order on every machine.
    """
    return sorted(range(len(keys)), key=lambda position: hashlib.sha256(keys[position]).digest())


def numbered_order(split: str, num_images: int) -> list[int]:
    """Returns the numbers of a split's images, sorted by the SHA-256 of their keys; see ``NumberedSource``."""
    return digest_order([f"{split}/{number}".encode() for number in range(num_images)])


class NumberedSource:
    """Images without names; the base of sources whose keys are the split and the number in it, such as ``train/7``.

    Attributes:
        split: the split.
        order: the number of each row.
        columns: the labels of all images by name, in the order of the numbers; None where an image has none.
    """

    split: str
    order: Sequence[int]
    columns: Mapping[str, Sequence[str | None]]

    def __len__(self) -> int:
        return len(self.order)

    def key(self, index: int) -> bytes:
        return f"{self.split}/{self.order[index]}".encode()

    def labels(self, index: int) -> dict[str, str]:
        values = {name: column[self.order[index]] for name, column in self.columns.items()}
        return {name: value for name, value in values.items() if value is not None}


def dataset_location(root: object, split: str, name: str = "") -> str:
    """Returns the location of a split of a named dataset in a root that may hold several; each is cached by itself."""
    return ", ".join(filter(None, (str(root), name, "" if split == "train" else f"split {split}")))


def file_stamp(path: Path | os.DirEntry[str]) -> tuple[int, int]:
    """Returns a file's size and the time of its last change in ns."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def read_image(source: Source, index: int, image_format: ImageFormat) -> Tensor:
    """Reads and decodes the image of row ``index``, uint8 (C, H, W); see ``decode_image``.

    Raises:
        InputError: for a record that is not an image.
        ReadError: for a record that is gone, or that the disk cannot read.
    """
    if not 0 <= index < len(source):
        raise IndexError(f"index {index} is out of range; the source has rows 0 to {len(source) - 1}")
    if isinstance(source, MirroredSource):
        image = read_image(*source.find(index), image_format)
        return image.flip(-1) if source.is_mirrored(index) else image
    try:
        return decode_image(source.read(index), image_format)
    except NotAnImageError as error:
        remedy = f"is not an image ({error}). {ADVICE}"
        raise InputError(f"key {key_text(source, index)} of", source.fingerprint[0], remedy) from error
    except OSError as error:
        remedy = f"cannot be read ({error.strerror or error}). Check the disk, and start again."
        raise ReadError(f"key {key_text(source, index)} of", source.fingerprint[0], remedy) from error


def skipped_text(error: InputError) -> str:
    """Returns what is said of an image that is skipped: the error without the advice to skip it."""
    return f"skipped {str(error).removesuffix(ADVICE).rstrip()}"


def key_text(source: Source, index: int) -> str:
    """Returns the key of row ``index`` as text for a message, in one line."""
    text = source.key(index).decode(errors="backslashreplace")
    return text if text.isprintable() else repr(text)[1:-1]
