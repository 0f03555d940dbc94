"""The one owner of writing whole or not at all: files and folders that appear finished, or stay as they were."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


class _Sink:
    """A file that takes bytes until it fails, and remembers how: torch.save turns an OSError into a RuntimeError."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        pass


def write_whole(path: Path, write: Callable[[Any], Any], shared: bool = False) -> None:
    """Has ``write(file)`` fill a file beside ``path`` and moves it there, synced: old or new, never half.

    Args:
        path: in a folder that exists.
        write: takes a binary file.
        shared: whether several processes may write this path at once.

    Raises:
        OSError: when the disk does not take it; what was there before is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            sink = _Sink(file)
            write(sink)
            if sink.error is not None:
                raise sink.error
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as ``write_whole`` does."""
    write_whole(path, lambda file: file.write(text.encode()))


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of ``path`` once it is filled, or is removed when that fails.

    Raises:
        OSError: when the disk does not take it; what was there before is as it was.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Makes ``target`` another name of the file ``source``, atomically.

    Raises:
        OSError: where the file system has no hard links.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    os.link(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # still there if both were one file before


def sync_folder(path: Path) -> None:
    """Has the names in a folder reach the disk, as fsync does for a file's content."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
