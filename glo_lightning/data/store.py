"""The two datasets over a source: StreamingDataset decodes at every access, CachedDataset once, into a file.

The file holds uint8 pixels, lies in the cache folder and is mapped into memory.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import mmap
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from glo_lightning.data.decoding import DECODED, TODO, Decoder
from glo_lightning.data.source import Source, key_text, read_image, skipped_text
from glo_lightning.errors import InputError, OnError
from glo_lightning.files import cache_folder, disk_remedy, reserve_space
from glo_lightning.images import DECODING, ImageFormat
from glo_lightning.locks import Lock
from glo_lightning.progress import Progress

log = logging.getLogger(__name__)

CHUNK = 1024  # smallest number of images that are decoded between two syncs to the disk


class StreamingDataset(Dataset[tuple[Tensor, Any]]):
    """The images of a source, decoded at every access: ``dataset[i] -> (image, i)``.

    A list of B indices gives a batch: uint8 images (B, C, H, W) and indices (B,), without skipped rows.

    Attributes:
        skipped: the rows, in order, that are known not to be images: those that were read.

    Args:
        on_invalid_image: ``raise``, or ``skip``: batches leave out records that are not images, with a warning.
    """

    def __init__(self, source: Source, image_format: ImageFormat, on_invalid_image: OnError = "raise"):
        self.source, self.image_format, self.on_invalid_image = source, image_format, on_invalid_image
        self.skipped: list[int] = []

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Any]:
        if not isinstance(index, Sequence):
            return read_image(self.source, index, self.image_format), index
        images, rows = [], []
        for row in index:
            try:
                images.append(read_image(self.source, row, self.image_format))
                rows.append(row)
            except InputError as error:
                if self.on_invalid_image == "raise":
                    raise
                log.warning("%s", skipped_text(error))
        self.add_skipped(index, rows)
        empty = torch.empty(0, *self.image_format.shape, dtype=torch.uint8)
        return torch.stack(images) if images else empty, torch.tensor(rows, dtype=torch.long)

    def add_skipped(self, index: Sequence[int], rows: Sequence[int]) -> None:
        """Remembers which rows of a batch, ``index``, were skipped, given those that were not.

        Raises:
            InputError: when no image is left.
        """
        if len(rows) < len(index):
            self.skipped = sorted({*self.skipped, *index} - set(rows))
            if len(self.skipped) == len(self):
                raise no_image_left(self.source)


def no_image_left(source: Source) -> InputError:
    """The error for a source of which nothing can be used."""
    problem = f"none of its {len(source)} images can be used. Give other images."
    return InputError("root", source.fingerprint[0], problem)


class CachedDataset(Dataset[tuple[Tensor, Any]]):
    """The images of a source, indexed like a StreamingDataset and decoded once, into a file in the cache folder.

    The file's name depends on everything that its content depends on. All cores fill it. If the process is killed, the
    next one continues. If several processes need the same file, one fills it and the others wait.

    Attributes:
        images: (N, C, H, W), uint8, mapped from the file.
        skipped: the rows, in order, that are not images or could not be read; their pixels are black.

    Raises:
        InputError: for a record that is not an image, when no image is left, and for a cache folder without room.
    """

    def __init__(self, source: Source, image_format: ImageFormat, on_invalid_image: OnError = "raise"):
        folder = _folder(source, image_format)
        self.file, self.shape = folder / "pixels", (len(source), *image_format.shape)
        with _locked(folder.with_suffix(".lock")):
            status = _fill(folder, source, image_format, on_invalid_image)
            self.images = self._map()
        self.skipped: list[int] = np.flatnonzero(status != DECODED).tolist()
        self.source, self._skipped = source, frozenset(self.skipped)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Any]:
        if not isinstance(index, Sequence):
            if index in self._skipped:
                raise InputError("key", key_text(self.source, index), "is not an image, and was skipped. Give another.")
            return self.images[index], index
        if not self._skipped.isdisjoint(index):
            index = [row for row in index if row not in self._skipped]
        self._read_ahead(index)
        rows = torch.tensor(index, dtype=torch.long)
        return self.images.index_select(0, rows), rows  # five times as fast as indexing

    def warn_of_copies(self, num_rows: int) -> None:
        """Warns of rows from ``num_rows`` on, which are held out, that have the pixels of an earlier row."""
        lines = self.images[:, 0, self.shape[2] // 2].numpy()  # one line of pixels tells most images apart
        wanted = {line.tobytes() for line in lines[num_rows:]}

        def digest(row: int) -> bytes:
            return hashlib.sha256(self.images[row].numpy().data).digest()

        rows = (row for row in range(num_rows) if lines[row].tobytes() in wanted)
        known = {digest(row) for row in rows if row not in self._skipped}
        copies = [row for row in range(num_rows, len(self)) if row not in self._skipped and digest(row) in known]
        if copies:
            message = "%d of %d held-out images have the pixels of a training image, such as %s: they are not new"
            log.warning(message, len(copies), len(self) - num_rows, key_text(self.source, copies[0]))

    def _map(self) -> Tensor:
        with open(self.file, "rb") as file:  # writes to the tensor do not reach the file
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(self._memory, dtype=torch.uint8).view(self.shape)

    def _read_ahead(self, rows: Sequence[int]) -> None:
        """Tells the system which rows come next, so that it reads those that are not in memory in parallel."""
        size = int(np.prod(self.shape[1:]))
        for row in rows:
            first = row * size // mmap.PAGESIZE * mmap.PAGESIZE
            self._memory.madvise(mmap.MADV_WILLNEED, first, (row + 1) * size - first)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("images", "_memory")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.images = self._map()


def _folder(source: Source, image_format: ImageFormat) -> Path:
    """Returns ``<location>-<state>-<N>x<size><kind>``, where location and state are digests of the fingerprint.

    Folders of the same location in another state are out of date.
    """
    location, *state = source.fingerprint
    names = [hashlib.sha256(repr(part).encode()).hexdigest()[:16] for part in (location, (*state, DECODING))]
    kind = ("grey" if image_format.channels == 1 else "") + ("" if image_format.crop == "center" else "whole")
    return cache_folder() / "images" / f"{names[0]}-{names[1]}-{len(source)}x{image_format.size}{kind}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process fills the folder, and keeps others from it."""
    lock, is_waiting = Lock(path), False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not lock.acquire():
            if not is_waiting:
                log.info("another run is decoding these images; waiting for %s", lock.holder())
            is_waiting = True
            time.sleep(0.2)
    except OSError as error:
        if not path.with_suffix("").is_dir() or os.access(path.parent, os.W_OK):
            remedy = f"cannot be written ({error.strerror}). Set XDG_CACHE_HOME to another folder."
            raise InputError("cache", path.parent, remedy) from error
        # a read-only cache needs no lock: nobody fills it
    try:
        yield
    finally:
        lock.release()


def _fill(folder: Path, source: Source, image_format: ImageFormat, on_invalid_image: OnError) -> np.ndarray:
    """Decodes the rows that are not done; returns the status of every row.

    With ``raise`` the rows that an earlier run skipped are tried again.
    """
    shape = (len(source), *image_format.shape)
    _allocate(folder, int(np.prod(shape)), shape[0])
    status = np.memmap(folder / "status", np.uint8, "r+" if os.access(folder, os.W_OK) else "r")
    todo = np.flatnonzero(status == TODO if on_invalid_image == "skip" else status != DECODED)
    if len(todo):
        log.info("decoding %d of %d images into %s", len(todo), len(source), folder)
        pixels = np.memmap(folder / "pixels", np.uint8, "r+", shape=shape)
        decoder = Decoder(source, image_format, on_invalid_image, folder)
        with Progress(total=len(todo), desc="decoding", unit=" images") as bar:
            first, size = 0, CHUNK
            while first < len(todo):
                start, rows = time.monotonic(), todo[first : first + size]
                done = decoder.decode(rows, pixels, functools.partial(_move, bar, first))
                pixels.flush()  # before the status, so that rows marked as decoded are on the disk
                status[rows] = done
                status.flush()
                first += len(rows)
                # about a second, so that forks are cheap
                size = max(CHUNK, int(len(rows) / (time.monotonic() - start)))
        decoder.log_notes()
    missing = int((status != DECODED).sum())
    skipped = f", skipped {missing}" if missing else ""
    if len(todo):
        log.info("decoded %d of %d images%s", len(todo), len(source), skipped)
    else:
        log.info("all %d images are decoded already%s", len(source), skipped)
    if missing == len(status):
        raise no_image_left(source)
    return np.array(status)


def _move(bar: Progress, first: int, done: int) -> None:
    """Moves the bar, and its clock where an image takes long."""
    bar.update(first + done - bar.n)
    bar.refresh()


def _allocate(folder: Path, num_bytes: int, num_rows: int) -> None:
    """Creates the files at their full size, so that a full disk is noticed before the decoding."""
    sizes = {"pixels": num_bytes, "status": num_rows}
    if all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()):
        return
    location, state, _ = folder.name.split("-")
    for other in folder.parent.glob(f"{location}-*"):
        if other.is_dir() and not other.name.startswith(f"{location}-{state}-"):
            _delete_unless_in_use(other)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    try:
        if free < num_bytes + num_rows:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name, size in sizes.items():
            with open(folder / name, "wb") as file:
                file.truncate(size)
                reserve_space(file.fileno(), size)
    except OSError as error:
        shutil.rmtree(folder)
        remedy = f"cannot be written ({error.strerror}): decoded images need {num_bytes / 1e6:.0f} MB there, and "
        remedy += f"{free / 1e6:.0f} MB are free. {disk_remedy(error)}, set XDG_CACHE_HOME to another folder, or "
        remedy += "decode in every epoch by --data.cache false."
        raise InputError("cache", folder.parent, remedy) from error


def _delete_unless_in_use(folder: Path) -> None:
    """Deletes a folder that is out of date, unless another run is filling it."""
    lock = Lock(folder.with_suffix(".lock"))
    try:
        if lock.acquire():
            shutil.rmtree(folder)
        else:
            log.info("kept %s, as %s is filling it", folder, lock.holder())
    finally:
        lock.release()
