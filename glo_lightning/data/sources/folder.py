"""A folder of images, of any depth, whose subfolders are the classes."""

from __future__ import annotations

import collections
import functools
import hashlib
import logging
import os
from collections.abc import Container, Iterator
from pathlib import Path

from glo_lightning.data.attributes import read_labels
from glo_lightning.data.source import digest_order, file_stamp, key_text
from glo_lightning.errors import InputError
from glo_lightning.files import holds_run

log = logging.getLogger(__name__)

# Of the formats that Pillow decodes, without floating-point ones. The list must not depend on the Pillow that is
# installed: the rows of a folder do.
SUFFIXES = {".apng", ".avif", ".avifs", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".fli", ".flc", ".gif", ".icns"}
SUFFIXES |= {".ico", ".icb", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo"}
SUFFIXES |= {".msp", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".ras", ".rgb", ".rgba", ".sgi"}
SUFFIXES |= {".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm", ".xpm"}
MAX_SUFFIXES_NAMED = 20


def find_file(folder: str | os.PathLike[str], suffixes: Container[str]) -> os.DirEntry[str] | None:
    """Finds a regular file in a folder or below that has one of the suffixes; see ``_walk``."""
    files = (entry for kind, entry in _walk(folder) if kind in ("image", "other"))
    return next((file for file in files if _suffix(file) in suffixes), None)


def _walk(folder: str | os.PathLike[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields what is in a folder and below, with its kind.

    The kinds are ``image`` and ``other`` for files, by their suffix; ``run`` for a run folder, whose pictures are made
    by training; ``broken`` for a link to nothing or to itself, and for what is no file, such as a pipe. Hidden files
    and links to a parent folder are left out.

    Raises:
        OSError: for a folder that may not be read.
    """
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [(os.fspath(folder), frozenset())]
    while folders:
        path, parents = folders.pop()
        stat = os.stat(path)
        if (stat.st_dev, stat.st_ino) in parents:
            continue
        parents |= {(stat.st_dev, stat.st_ino)}
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError:  # a circle of links
                    is_folder = is_file = False
                if is_folder and not holds_run(entry.path):
                    folders.append((entry.path, parents))
                elif is_folder:
                    yield "run", entry
                elif is_file:
                    yield "image" if _suffix(entry) in SUFFIXES else "other", entry
                else:
                    yield "broken", entry


def _suffix(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower()


def list_images(folder: str | os.PathLike[str], key: str = "root") -> list[os.DirEntry[str]]:
    """Lists the image files in a folder and below, and logs what is passed over; see ``_walk``.

    Raises:
        InputError: for a folder that has no images or may not be read; ``key`` is the argument that gave it.
    """
    entries: dict[str, list[os.DirEntry[str]]] = {kind: [] for kind in ("image", "other", "run", "broken")}
    try:
        for kind, entry in _walk(folder):
            entries[kind].append(entry)
    except OSError as error:
        raise InputError(key, error.filename or folder, f"cannot be read ({error.strerror}).") from error
    for path in sorted(map(path_text, entries["run"])):
        log.info("passed over %s: it is a run folder, whose pictures are not training images", path)
    for path in sorted(map(path_text, entries["broken"])):
        log.warning("passed over %s: it is a link to nothing, or no regular file", path)
    passed_over = _count(entries)
    if not entries["image"]:
        problem = f"holds no images{passed_over and f'; passed over: {passed_over}'}"
        raise InputError(key, folder, f"{problem}. Give a folder of files such as .jpg, .png, .webp, .tif or .avif.")
    if passed_over:
        log.info("passed over: %s", passed_over)
    return entries["image"]


def path_text(path: str | os.PathLike[str]) -> str:
    """Returns a path as text that can be printed: a name need not be UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _count(entries: dict[str, list[os.DirEntry[str]]]) -> str:
    """Counts the files that are passed over by suffix, the most frequent first; empty if there are none."""
    others = (entry for entry in entries["other"] if entry.name != "attributes.csv")
    suffixes = collections.Counter(sorted(_suffix(entry) or "without suffix" for entry in others))
    parts = [f"{number} {suffix}" for suffix, number in suffixes.most_common(MAX_SUFFIXES_NAMED)]
    if len(suffixes) > MAX_SUFFIXES_NAMED:
        parts.append("others")
    if entries["broken"]:
        parts.append(f"{len(entries['broken'])} that are no files")
    return ", ".join(parts)


class FolderSource:
    """The image files in a folder and below, sorted by the SHA-256 of their keys; a ``Source``.

    A key is the file's path in the folder, with ``/`` between its parts. The first part is the label ``class``, as in
    torchvision's ImageFolder, where there are several. ``attributes.csv`` in the folder adds labels. See
    ``list_images`` for errors.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.folder = Path(root).expanduser().absolute()
        first = len(os.path.join(self.folder, ""))
        stamps = {os.fsencode(entry.path[first:]): file_stamp(entry) for entry in list_images(self.folder)}
        keys = list(stamps)
        self.names = [keys[position] for position in digest_order(keys)]
        content = hashlib.sha256(repr([(key, stamps[key]) for key in self.names]).encode()).hexdigest()
        self.fingerprint = (os.fspath(self.folder), content)

    def __len__(self) -> int:
        return len(self.names)

    def key(self, index: int) -> bytes:
        return self.names[index]

    def read(self, index: int) -> bytes:
        """Returns the content of the file of row ``index``."""
        return (self.folder / os.fsdecode(self.key(index))).read_bytes()

    @functools.cached_property
    def _table(self) -> dict[bytes, dict[str, str]]:
        return read_labels(self.folder, self.names)

    def labels(self, index: int) -> dict[str, str]:
        """Returns the class of row ``index`` and its labels in ``attributes.csv``; see ``read_labels`` for errors."""
        key = self.key(index)
        first, slash, _ = key_text(self, index).partition("/")
        return ({"class": first} if slash else {}) | self._table.get(key, {})
