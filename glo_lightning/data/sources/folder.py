"""A folder of images, of any depth, whose subfolders are the classes."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glo_lightning.data.attributes import read_labels
from glo_lightning.data.source import digest_order, file_stamp
from glo_lightning.errors import InputError, ReadError
from glo_lightning.files import holds_run

log = logging.getLogger(__name__)

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


def list_images(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Lists the image files in a folder and below, see ``image_paths``, and logs the run folders that are skipped.

    Raises:
        OSError: for a folder that may not be read.
    """
    runs: list[str] = []
    files = list(image_paths(folder, runs))
    for run in sorted(runs):
        log.info("skipped %s: it is a run folder, whose pictures are not training images", run)
    return files


def image_paths(
    folder: str | os.PathLike[str], runs: list[str] | None = None, parents: tuple[str, ...] = ()
) -> Iterator[os.DirEntry[str]]:
    """Yields the files in a folder and below that have the suffix of an image.

    Hidden files, links to a parent folder and run folders are skipped: a run's pictures are made by training.

    Args:
        folder: the folder to search.
        runs: a list that the paths of skipped run folders are added to.
        parents: the folders around this one.

    Raises:
        OSError: for a folder that may not be read.
    """
    parents = (*parents, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if holds_run(entry.path):
                    if runs is not None:
                        runs.append(entry.path)
                elif os.path.realpath(entry.path) not in parents:
                    yield from image_paths(entry.path, runs, parents)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield entry


class FolderSource:
    """The image files in a folder and below, sorted by the SHA-256 of their keys; a ``Source``.

    A key is the file's path in the folder, with ``/`` between its parts. The first part is the label ``class``, as in
    torchvision's ImageFolder, where there are several. ``attributes.csv`` in the folder adds labels.

    Args:
        root: the folder.

    Raises:
        InputError: for a folder that has no images or may not be read.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.folder = Path(root).expanduser().absolute()
        if not self.folder.is_dir():
            raise InputError("root", self.folder, "is not a folder. Give a folder of images.")
        try:
            stamps = {_key(entry.path, self.folder): file_stamp(Path(entry)) for entry in list_images(self.folder)}
        except OSError as error:
            raise InputError("root", error.filename or self.folder, f"cannot be read ({error.strerror}).") from error
        if not stamps:
            endings = ", ".join(sorted(SUFFIXES))
            raise InputError("root", self.folder, f"holds no images. Give a folder of files that end in {endings}.")
        keys = list(stamps)
        self.names = [keys[position] for position in digest_order(keys)]
        content = hashlib.sha256(repr([(key, stamps[key]) for key in self.names]).encode()).hexdigest()
        self.fingerprint = (os.fspath(self.folder), content)

    def __len__(self) -> int:
        return len(self.names)

    def key(self, index: int) -> bytes:
        return self.names[index]

    def read(self, index: int) -> bytes:
        """Returns the content of the file of row ``index``.

        Raises:
            ReadError: for a file that is gone or cannot be read.
        """
        path = self.folder / os.fsdecode(self.key(index))
        try:
            return path.read_bytes()
        except OSError as error:
            remedy = f"cannot be read ({error.strerror}). Check the disk and the file, and start again."
            raise ReadError("key", path, remedy) from error

    @functools.cached_property
    def _table(self) -> dict[bytes, dict[str, str]]:
        return read_labels(self.folder, self.names)

    def labels(self, index: int) -> dict[str, str]:
        """Returns the class of row ``index`` and its labels in ``attributes.csv``.

        Raises:
            InputError: when that file belongs to other images.
        """
        key = self.key(index)
        first, slash, _ = os.fsdecode(key).partition("/")
        return ({"class": first} if slash else {}) | self._table.get(key, {})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_table"}


def _key(path: str, folder: Path) -> bytes:
    return os.fsencode(Path(path).relative_to(folder).as_posix())
