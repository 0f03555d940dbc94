"""Decodes many images into one array, in subprocesses, and collects what is said of them."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import mmap
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from glo_lightning.data.source import Source, key_text, read_image, skipped_text
from glo_lightning.data.subprocesses import run_in_subprocesses
from glo_lightning.errors import InputError, OnError, ReadError
from glo_lightning.images import ImageFormat
from glo_lightning.memory import free_memory

log = logging.getLogger(__name__)

TODO, DECODED, INVALID = 0, 1, 2  # the status of a row
UNREADABLE, FAILED = 3, 4  # also, while rows are decoded: the disk failed; the source has a bug
MIN_IMAGES_PER_PROCESS = 16
MAX_BYTES_PER_IMAGE = 1_500_000_000  # what the largest image that is read takes to decode, even from a file of 4 kB
MAX_NOTE = 300  # characters


class Decoder:
    """Decodes rows of a source.

    Attributes:
        notes: what Pillow and its C libraries said of rows that they decoded all the same: text -> rows.

    Args:
        on_invalid_image: ``raise``, or ``skip`` rows that are not images, with a warning for each.
        folder: a folder for temporary files.
    """

    def __init__(self, source: Source, image_format: ImageFormat, on_invalid_image: OnError, folder: Path):
        self.source, self.image_format = source, image_format
        self.on_invalid_image, self.folder = on_invalid_image, folder
        self.notes: dict[str, list[int]] = {}

    def decode(self, rows: np.ndarray, pixels: np.ndarray, on_progress: Callable[[int], object]) -> np.ndarray:
        """Decodes rows into ``pixels`` (N, C, H, W), in as many subprocesses as there are cores and memory for.

        The subprocesses share the memory of the pixels, and end with these rows or with this process.

        Args:
            pixels: the array, mapped from a file.
            on_progress: takes the number of rows that are done, twice a second.

        Returns:
            The status of each row: DECODED, INVALID, or TODO where the disk failed, as it may not the next time.

        Raises:
            InputError: for a row that is not an image, with ``raise``; and when the system kills a subprocess, for
                example because pages of an LMDB were overwritten.
        """
        status = np.frombuffer(mmap.mmap(-1, len(rows)), np.uint8)  # shared memory
        number = min(os.cpu_count() or 1, -(-len(rows) // MIN_IMAGES_PER_PROCESS), free_memory() // MAX_BYTES_PER_IMAGE)
        parts = [slice(first, None, max(1, number)) for first in range(max(1, number))]
        with contextlib.ExitStack() as stack:
            notes, *files = (
                stack.enter_context(tempfile.TemporaryFile(dir=self.folder)) for _ in range(len(parts) + 1)
            )
            actions = [
                functools.partial(self._decode_part, rows[part], status[part], pixels, file, notes)
                for part, file in zip(parts, files, strict=True)
            ]
            exits = run_in_subprocesses(actions, lambda: on_progress(int(np.count_nonzero(status))))
            notes.seek(0)
            self._log(notes)
        left = np.flatnonzero(status == TODO)
        if len(left):
            problem = f"the system killed the process that decoded key {key_text(self.source, int(rows[left[0]]))} "
            problem += f"(signal {-min(exits)}). The file is damaged, or there is not enough memory."
            raise InputError("root", self.source.fingerprint[0], problem)
        again = status == FAILED if self.on_invalid_image == "skip" else status != DECODED
        for position in np.flatnonzero(again).tolist():  # its error is raised by this process
            pixels[rows[position]] = read_image(self.source, int(rows[position]), self.image_format).numpy()
            status[position] = DECODED
        return np.where(status == UNREADABLE, TODO, status)

    def _decode_part(
        self, rows: np.ndarray, status: np.ndarray, pixels: np.ndarray, file: BinaryIO, notes: BinaryIO
    ) -> None:
        """Decodes rows one by one, in a subprocess; writes lines [row, error, what else was said] to ``notes``."""
        for position, row in enumerate(rows.tolist()):
            problem = ""
            with captured(file) as said:
                try:
                    pixels[row] = read_image(self.source, row, self.image_format).numpy()
                    result = DECODED
                except InputError as error:
                    result, problem = UNREADABLE if isinstance(error, ReadError) else INVALID, skipped_text(error)
                except Exception:  # any error of a source; it is raised when the main process reads the row
                    result = FAILED
            if problem or said:
                with contextlib.suppress(OSError):  # a full disk
                    line = json.dumps([row, problem, "; ".join(said)[:MAX_NOTE]])
                    os.write(notes.fileno(), f"{line}\n".encode())
            status[position] = result

    def _log(self, lines: Iterable[bytes]) -> None:
        notes = []
        for line in lines:
            with contextlib.suppress(ValueError):  # one that the disk had no room for
                notes.append(json.loads(line))
        for row, problem, said in sorted(notes):
            if problem and self.on_invalid_image == "skip":
                log.warning("%s", problem)
            elif said and not problem:
                self.notes.setdefault(said, []).append(row)

    def log_notes(self) -> None:
        """Logs each note once, with the key of its first row and the number of rows."""
        for said, rows in self.notes.items():
            others = f" ({len(rows)} images)" if len(rows) > 1 else ""
            location = self.source.fingerprint[0]
            log.warning("key %s of %s%s: %s", key_text(self.source, rows[0]), location, others, said)


@contextlib.contextmanager
def captured(file: BinaryIO) -> Iterator[list[str]]:
    """Captures Python's warnings, and the standard error, to which C libraries write; fills the list at the end.

    ``file`` is an empty temporary file, and empty again at the end.
    """
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            saved = os.dup(2)
        except OSError:  # standard error is closed
            yield said
        else:
            os.dup2(file.fileno(), 2)
            try:
                yield said
            finally:
                os.dup2(saved, 2)
                os.close(saved)
    said += [str(warning.message) for warning in caught]
    if os.fstat(file.fileno()).st_size:
        file.seek(0)
        said += file.read().decode(errors="replace").splitlines()
        file.seek(0)
        file.truncate()
