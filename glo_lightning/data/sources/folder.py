"""Images out of a folder, of any depth, whose subfolders are their classes."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glo_lightning.data.attributes import read_labels
from glo_lightning.data.source import digest_order
from glo_lightning.errors import InputError, ReadError
from glo_lightning.files import holds_run

log = logging.getLogger(__name__)

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


def image_paths(
    folder: str | os.PathLike[str], runs: list[str] | None = None, above: tuple[str, ...] = ()
) -> Iterator[os.DirEntry[str]]:
    """The files below a folder that have an image's suffix; hidden ones are left out, and links to folders above.

    Folders of runs are left out too: the pictures in them are made by a training, not for it.

    Args:
        folder: to search.
        runs: gets the paths of the run folders that were left out.
        above: the folders around this one.

    Raises:
        OSError: for a folder that may not be read.
    """
    above = (*above, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if holds_run(entry.path):
                    if runs is not None:
                        runs.append(entry.path)
                elif os.path.realpath(entry.path) not in above:
                    yield from image_paths(entry.path, runs, above)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield entry


class FolderSource:
    """The image files of a folder and all folders in it, in the order of the SHA-256 of their paths; a ``Source``.

    A key is the path in the folder, its parts joined by ``/``. The first part, where there are several, is the image's
    label ``class``, as in torchvision's ImageFolder; ``attributes.csv`` in the folder may say more.

    Args:
        root: the folder.

    Raises:
        InputError: for a folder without images, or that may not be read.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.folder = Path(root).expanduser().absolute()
        if not self.folder.is_dir():
            raise InputError("root", self.folder, "is no folder; give a folder of images")
        found: dict[bytes, tuple[int, int]] = {}
        runs: list[str] = []
        try:
            for entry in image_paths(self.folder, runs):
                state = entry.stat()
                found[_key(entry.path, self.folder)] = (state.st_size, state.st_mtime_ns)
        except OSError as error:
            raise InputError("root", error.filename or self.folder, f"cannot be read ({error.strerror})") from error
        for run in sorted(runs):
            log.info("left out %s: it is a run folder, and its pictures are no training images", run)
        if not found:
            kinds = ", ".join(sorted(SUFFIXES))
            raise InputError("root", self.folder, f"holds no images, which are files that end in {kinds}")
        keys = list(found)
        self.names = [keys[position] for position in digest_order(keys)]
        content = hashlib.sha256(repr([(key, found[key]) for key in self.names]).encode()).hexdigest()
        self.fingerprint = (os.fspath(self.folder), content)

    def __len__(self) -> int:
        return len(self.names)

    def key(self, index: int) -> bytes:
        return self.names[index]

    def read(self, index: int) -> bytes:
        """The content of the file of row ``index``.

        Raises:
            ReadError: for a file that is gone, or cannot be read.
        """
        path = self.folder / os.fsdecode(self.names[index])
        try:
            return path.read_bytes()
        except OSError as error:
            remedy = f"cannot be read ({error.strerror}). Check the disk and the file, and start again"
            raise ReadError("key", path, remedy) from error

    @functools.cached_property
    def _labels(self) -> dict[bytes, dict[str, str]]:
        return read_labels(self.folder, self.names)

    def labels(self, index: int) -> dict[str, str]:
        """The class, and what ``attributes.csv`` says.

        Raises:
            InputError: when that names other images.
        """
        first, slash, _ = os.fsdecode(self.names[index]).partition("/")
        return ({"class": first} if slash else {}) | self._labels.get(self.names[index], {})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_labels"}


def _key(path: str, folder: Path) -> bytes:
    return os.fsencode(Path(path).relative_to(folder).as_posix())
