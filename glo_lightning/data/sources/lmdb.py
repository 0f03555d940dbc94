"""LMDBs of encoded images, as LSUN has them, in key order."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glo_lightning.data.attributes import read_labels
from glo_lightning.data.digests import pack_keys
from glo_lightning.data.source import ConcatSource, Labels, Source, key_text
from glo_lightning.data.subprocesses import run_in_subprocesses
from glo_lightning.errors import InputError, ReadError, decoding, did_you_mean
from glo_lightning.files import cache_folder, write_whole

if TYPE_CHECKING:
    import lmdb

log = logging.getLogger(__name__)

REMEDY = "Give a whole LMDB."
FACES = Path(__file__).parents[1] / "faces"  # the images that come with the package


def is_lmdb(path: Path) -> bool:
    """Returns whether this is an LMDB folder, or an LMDB in one file, by its magic number.

    Raises:
        OSError: for a path that may not be read.
    """
    if not path.is_file():
        return (path / "data.mdb").is_file()
    with open(path, "rb") as file:
        start = file.read(24)
    return any(magic in start for magic in (b"\xde\xc0\xef\xbe", b"\xbe\xef\xc0\xde"))


def list_categories(folder: Path) -> dict[str, list[str]]:
    """Returns the splits of each category in LSUN's folder, which holds LMDBs such as ``bedroom_train_lmdb``."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*_*_lmdb/data.mdb")):
        category, _, split = file.parent.name.removesuffix("_lmdb").rpartition("_")
        found.setdefault(category, []).append(split)
    return found


def find_lmdb(root: str | os.PathLike[str] | None, category: str | None = None, split: str = "train") -> Path:
    """Finds the LMDB: ``root`` itself, or in it that of a category; the shipped faces for None.

    Args:
        root: an LMDB folder, an LMDB in one file, or the LSUN folder that holds the LMDB folders of its categories.
        category: the category; by default the only one that is there, else ``bedroom``.

    Raises:
        InputError: when there is none, or none of this split.
    """
    folder = FACES if root is None else Path(root).expanduser()
    categories = list_categories(folder)
    name = category or (next(iter(categories)) if len(categories) == 1 else "bedroom")
    with decoding("root", folder, "Check the path and its permissions."):
        is_single = is_lmdb(folder)
        if is_single and category is None and split == "train":
            return (folder.parent if folder.name == "data.mdb" else folder).resolve()
        if is_lmdb(folder / f"{name}_{split}_lmdb"):
            return (folder / f"{name}_{split}_lmdb").resolve()
    if is_single:
        raise InputError("split", split, f"{folder} is an LMDB without splits. Leave it out, and give --data.holdout.")
    if name in categories:
        remedy = f"{folder} has {name} in the splits {', '.join(categories[name])}. Give one of them."
        raise InputError("split", split, remedy)
    if categories:
        remedy = f"holds no {name}_{split}_lmdb, but {', '.join(categories)}. Give one by --data.categories."
        raise InputError("root", folder, remedy)
    what = "is no LMDB and holds none" if folder.exists() else "does not exist"
    raise InputError("root", folder, f"{what}. Give an LMDB, or the LSUN folder that holds {name}_{split}_lmdb.")


def open_categories(root: str | os.PathLike[str] | None, categories: Sequence[str], split: str = "train") -> Source:
    """Opens categories of LSUN, such as ``church_outdoor``, one after the other, each labelled as its ``class``.

    Raises:
        InputError: for a folder that is not LSUN's, and a category that is not there or given twice.
    """
    if root is None:
        raise InputError("categories", " ".join(categories), "need LSUN's folder. Give it by --data.root.")
    folder = Path(root).expanduser()
    names = [name for name, splits in list_categories(folder).items() if split in splits]
    if not names:
        remedy = f"is no LSUN folder, as it holds no *_{split}_lmdb. Give one, or leave out --data.categories."
        raise InputError("root", folder, remedy)
    for position, category in enumerate(categories):
        if category not in names:
            remedy = f"{folder} has no {category}_{split}_lmdb; {did_you_mean(category, names)}"
            raise InputError("categories", category, remedy)
        if category in categories[:position]:
            raise InputError("categories", category, "is given twice. Give it once.")
    return ConcatSource([LMDBSource(find_lmdb(folder, name, split), category=name) for name in categories])


# A process may open an environment only once, and must not use one that was opened before a fork:
# path -> (process and inode, smallest valid size of the file, environment).
_open_environments: dict[Path, tuple[tuple[int, int], int, lmdb.Environment]] = {}


def open_lmdb(path: Path) -> lmdb.Environment:
    """Opens an LMDB for reading, once a process; without a lock, so that it may lie on a read-only disk.

    Raises:
        InputError: for an LMDB that is invalid, unreadable, truncated or empty.
    """
    import lmdb  # here, so that other sources do not need the package

    file = _data_file(path)
    stat = file.stat()
    owner = (os.getpid(), stat.st_ino)
    if path in _open_environments and _open_environments[path][0] != owner:
        _open_environments.pop(path)[2].close()
    if path not in _open_environments:
        with decoding("root", file, REMEDY):
            opened = lmdb.open(os.fspath(file), subdir=False, readonly=True, lock=False, readahead=False, max_dbs=1)
        if opened.stat()["entries"] == 0:
            opened.close()
            remedy = "is an empty LMDB. Build one from a folder of images by scripts/build_lmdb.py."
            raise InputError("root", file, remedy)
        size = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        _open_environments[path] = (owner, size, opened)
    _, smallest, environment = _open_environments[path]
    if stat.st_size < smallest:  # reading a page behind its end would kill the process (SIGBUS)
        raise InputError("root", file, f"has {stat.st_size} of {smallest} bytes; it was truncated. Copy it again.")
    return environment


def _data_file(path: Path) -> Path:
    return path / "data.mdb" if path.is_dir() else path


def fingerprint(path: Path) -> tuple[Any, ...]:
    """Returns an LMDB's location and what changes with it: inode, size, times, last transaction, number of records."""
    stat, environment = _data_file(path).stat(), open_lmdb(path)
    times = (stat.st_mtime_ns, stat.st_ctime_ns, environment.info()["last_txnid"])
    return (os.fspath(path), stat.st_ino, stat.st_size, *times, environment.stat()["entries"])


def read_keys(path: Path) -> np.ndarray:
    """Returns the LMDB's keys in order: (N,) records of ``length`` and zero-padded ``key`` bytes.

    The first call lists them with a cursor and keeps the list in the cache folder, as a NumPy file that later calls map
    into memory. The file's name is the database's ``fingerprint``, so that a changed database is listed again. Its last
    four bytes are the CRC of the others, so that a damaged list is made again.
    """
    name = hashlib.sha256(repr(fingerprint(path)).encode()).hexdigest()[:32]
    file = cache_folder() / "keys" / f"{name}.npy"
    with contextlib.suppress(InputError), decoding("cache", file, ""):
        content = np.memmap(file, np.uint8, "r").data
        if zlib.crc32(content[:-4]) == int.from_bytes(content[-4:], "little"):
            return np.load(file, mmap_mode="r", allow_pickle=False)
    if min(run_in_subprocesses([functools.partial(_try_to_list, path)])) < 0:
        raise InputError("root", path, "its data.mdb is damaged and crashes liblmdb. Copy it again.")
    array, buffer = pack_keys(_list_keys(path)), io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    buffer.write(zlib.crc32(buffer.getbuffer()).to_bytes(4, "little"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda opened: opened.write(buffer.getbuffer()), shared=True)
    except OSError as error:
        log.warning("cannot keep the list of keys in %s (%s); every start will list them", file.parent, error)
    return array


def _list_keys(path: Path) -> list[bytes]:
    """Lists the keys of the database; the records of one that holds named databases are no images."""
    import lmdb

    environment = open_lmdb(path)
    with decoding("root", path, REMEDY):
        with environment.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
        with contextlib.suppress(lmdb.Error):
            environment.open_db(keys[0], create=False)
            remedy = "Give one whose images are in the unnamed database, as scripts/build_lmdb.py makes."
            raise InputError("root", path, f"holds the named database {keys[0]!r}. {remedy}")
    return keys


def _try_to_list(path: Path) -> None:
    with contextlib.suppress(InputError):
        _list_keys(path)


class LMDBSource:
    """The images of an LMDB, in key order; a ``Source``. ``category`` is the label ``class`` of all images.

    Each process opens the LMDB when it first reads, so that workers may be started by fork, spawn or forkserver. See
    ``find_lmdb`` and ``open_lmdb`` for the root and errors.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, category: str | None = None):
        self.path = find_lmdb(root)
        self._category = {} if category is None else {"class": category}
        self.packed_keys = read_keys(self.path)

    def __len__(self) -> int:
        return len(self.packed_keys)

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        return fingerprint(self.path)

    def key(self, index: int) -> bytes:
        length, key = self.packed_keys[index]
        return key.tobytes()[:length]

    @functools.cached_property
    def _table(self) -> dict[bytes, dict[str, str]]:
        return read_labels(_data_file(self.path).parent, (self.key(row) for row in range(len(self))))

    @property
    def labels(self) -> Labels | None:
        """Returns the category and the labels in ``attributes.csv``; None without either. See ``read_labels``."""
        return self._labels_of_row if self._category or self._table else None

    def _labels_of_row(self, index: int) -> dict[str, str]:
        return self._category | self._table.get(self.key(index), {})

    def read(self, index: int) -> bytes:
        """Returns the encoded image of row ``index``; InputError for a record that is gone or damaged."""
        environment, key = open_lmdb(self.path), f"key {key_text(self, index)} of"
        with decoding(key, self.path, REMEDY), environment.begin() as transaction:
            record = transaction.get(self.key(index))
        if record is None:
            raise ReadError(key, self.path, "is gone; the LMDB was changed after the start. Start again.")
        return record

    def __getstate__(self) -> dict[str, Any]:
        # pickle would copy a memory map to each worker; the name of its file is enough
        keys = self.packed_keys.filename if isinstance(self.packed_keys, np.memmap) else self.packed_keys
        return self.__dict__ | {"packed_keys": keys}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self.packed_keys, np.ndarray):
            self.packed_keys = np.load(self.packed_keys, mmap_mode="r", allow_pickle=False)
