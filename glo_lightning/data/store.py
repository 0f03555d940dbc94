"""Every image decoded once: a file of uint8 pixels in the cache folder, mapped into memory."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import mmap
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from glo_lightning.data.source import Source, read_image
from glo_lightning.data.subprocesses import run_in_subprocesses
from glo_lightning.errors import InputError, OnError, ReadError
from glo_lightning.files import cache_folder
from glo_lightning.images import DECODING, ImageFormat
from glo_lightning.locks import Lock

log = logging.getLogger(__name__)

TODO, DECODED, NO_IMAGE = 0, 1, 2  # the status of a row
FEWEST = 16  # images for which a process is started
CHUNK = 1024  # images decoded between two syncs to the disk, at least


class CachedDataset(Dataset[tuple[Tensor, Any]]):
    """The images of a source, by the same index, out of a store that is filled when it is first asked for.

    The store is keyed by everything that its content depends on. It is filled with all cores; a process that is
    killed in the middle leaves what it has decoded to the next one, and of several that want the same store at
    once one fills it while the others wait.

    Attributes:
        images: (N, C, H, W), uint8, mapped from the file.
        skipped: the rows, in order, whose records are no images, or could not be read; their pixels are black.

    Args:
        source: where the images come from.
        image_format: what they are made to be.
        on_invalid_image: ``raise`` or ``skip`` records that are no images.

    Raises:
        InputError: for a record that is no image, when none is left, and for a cache folder without room.
    """

    def __init__(self, source: Source, image_format: ImageFormat, on_invalid_image: OnError = "raise"):
        folder = _folder(source, image_format)
        self.file, self.shape = folder / "pixels", (len(source), *image_format.shape)
        with _locked(folder.with_suffix(".lock")):
            status = _fill(folder, source, image_format, on_invalid_image)
            self.images = self._map()
        self.skipped = np.flatnonzero(status != DECODED)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Any]:
        if not isinstance(index, Sequence):
            return self.images[index], index
        self._read_ahead(index)
        rows = torch.tensor(index)
        return self.images.index_select(0, rows), rows  # five times as fast as indexing

    def _map(self) -> Tensor:
        with open(self.file, "rb") as file:  # a write to the tensor would not reach it
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(self._memory, dtype=torch.uint8).view(self.shape)

    def _read_ahead(self, rows: Sequence[int]) -> None:
        """Asks the system for all rows at once: it reads those that are not in memory side by side, not one by one."""
        if hasattr(mmap, "MADV_WILLNEED"):
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
    """``<place>-<state>-<N>x<size><kind>``: stores of the same place in another state can never be used again."""
    place, *state = source.fingerprint
    names = [hashlib.sha256(repr(part).encode()).hexdigest()[:16] for part in (place, (*state, DECODING))]
    kind = ("grey" if image_format.channels == 1 else "") + ("" if image_format.crop == "center" else "whole")
    return cache_folder() / "images" / f"{names[0]}-{names[1]}-{len(source)}x{image_format.size}{kind}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process fills the store, and keeps others from it."""
    lock, waits = Lock(path), False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not lock.acquire():
            if not waits:
                log.info("another run is decoding these images; waiting for %s", lock.holder())
            waits = True
            time.sleep(0.2)
    except OSError as error:
        remedy = (
            f"cannot be written ({error.strerror}); set XDG_CACHE_HOME to another place, or give --data.cache false"
        )
        raise InputError("cache", path.parent, remedy) from error
    try:
        yield
    finally:
        lock.release()


def _fill(folder: Path, source: Source, image_format: ImageFormat, on_invalid_image: OnError) -> np.ndarray:
    """Decodes the rows that are still to do; returns the status of every row.

    To ``raise``, these are also the rows that an earlier run skipped. A row that cannot be read stays TODO: the disk
    may give it the next time.
    """
    shape = (len(source), *image_format.shape)
    _allocate(folder, int(np.prod(shape)), shape[0])
    status = np.memmap(folder / "status", np.uint8, "r+")
    todo = np.flatnonzero(status == TODO if on_invalid_image == "skip" else status != DECODED)
    if len(todo):
        log.info("decoding %d of %d images into %s", len(todo), len(source), folder)
        pixels = np.memmap(folder / "pixels", np.uint8, "r+", shape=shape)
        with tqdm(total=len(todo), unit=" images", file=sys.stdout) as bar:
            first, most = 0, CHUNK
            while first < len(todo):
                began, rows = time.monotonic(), todo[first : first + most]
                done = _decode_in_processes(rows, pixels, source, image_format)
                for position in np.flatnonzero(done == NO_IMAGE).tolist():
                    try:
                        pixels[rows[position]] = read_image(source, int(rows[position]), image_format).numpy()
                        done[position] = DECODED
                    except InputError as error:
                        if on_invalid_image == "raise":
                            raise
                        log.warning("%s", error)
                        if isinstance(error, ReadError):
                            done[position] = TODO
                pixels.flush()  # the pixels first: a row marked as decoded is on the disk
                status[rows] = done
                status.flush()
                bar.update(len(rows))
                first += len(rows)
                most = max(CHUNK, int(len(rows) / (time.monotonic() - began)))  # in a second: forks cost little then
    missing = int((status != DECODED).sum())
    log.info("decoded %d of %d images%s", len(todo), len(source), f", skipped {missing}" if missing else "")
    if missing == len(status):
        raise InputError("root", source.fingerprint[0], f"none of its {missing} images can be used. Give other images")
    return np.array(status)


def _decode_in_processes(rows: np.ndarray, pixels: np.ndarray, source: Source, image_format: ImageFormat) -> np.ndarray:
    """Decodes rows into ``pixels``, by all cores; returns the status of each, in which no row is TODO.

    The processes live as long as these rows, and share the file of the pixels. A killed run leaves none behind.

    Raises:
        InputError: when one of them is ended by the system, as by pages of an LMDB that were overwritten.
    """
    done = np.frombuffer(mmap.mmap(-1, len(rows)), np.uint8)  # memory that all share
    number = min(os.cpu_count() or 1, -(-len(rows) // FEWEST))
    parts = [slice(first, None, number) for first in range(number)]
    statuses = run_in_subprocesses(
        [functools.partial(_decode, rows[part], done[part], pixels, source, image_format) for part in parts]
    )
    left = np.flatnonzero(done == TODO)
    if len(left):
        key = source.key(int(rows[left[0]])).decode(errors="backslashreplace")
        remedy = f"the system ended the process that decoded key {key} (signal {-min(statuses)})"
        raise InputError("root", source.fingerprint[0], f"{remedy}: the file is damaged, or memory is short")
    return done


def _decode(rows: np.ndarray, done: np.ndarray, pixels: np.ndarray, source: Source, image_format: ImageFormat) -> None:
    """Decodes rows one by one into ``pixels`` (N, C, H, W) and marks them in ``done``."""
    for position, row in enumerate(rows.tolist()):
        try:
            pixels[row] = read_image(source, row, image_format).numpy()
            done[position] = DECODED
        except Exception:  # whatever a source raises: the run reads this row again in its own process, and tells
            done[position] = NO_IMAGE


def _allocate(folder: Path, num_bytes: int, num_rows: int) -> None:
    """Makes the files of a new store at their full size, so that a full disk is found out before the decoding."""
    sizes = {"pixels": num_bytes, "status": num_rows}
    if all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()):
        return
    place, state, _ = folder.name.split("-")
    for other in folder.parent.glob(f"{place}-*"):
        if other.is_dir() and not other.name.startswith(f"{place}-{state}-"):
            _delete_unless_in_use(other)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    try:
        if free < num_bytes + num_rows:
            raise OSError
        for name, size in sizes.items():
            with open(folder / name, "wb") as file:
                file.truncate(size)
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        shutil.rmtree(folder)
        remedy = f"decoded images need {num_bytes / 1e6:.0f} MB there, {free / 1e6:.0f} are free; make room, set "
        remedy += "XDG_CACHE_HOME to another place, or stream from the LMDB with --data.cache false"
        raise InputError("cache", folder.parent, remedy) from error


def _delete_unless_in_use(folder: Path) -> None:
    """Deletes a store that can never be used again, unless another run is filling it at this moment."""
    lock = Lock(folder.with_suffix(".lock"))
    if lock.acquire():
        try:
            shutil.rmtree(folder)
        finally:
            lock.release()
    else:
        log.info("%s is left alone: %s is filling it", folder, lock.holder())
