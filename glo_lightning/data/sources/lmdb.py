"""LMDBs of encoded images, as LSUN has them, in key order."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glo_lightning.data.attributes import read_labels
from glo_lightning.data.digests import pack_keys
from glo_lightning.data.source import ConcatSource, Labels, Source, key_text
from glo_lightning.data.subprocesses import run_in_subprocesses
from glo_lightning.errors import InputError, ReadError, did_you_mean
from glo_lightning.files import cache_folder, write_whole

if TYPE_CHECKING:
    import lmdb

log = logging.getLogger(__name__)

FACES = Path(__file__).parents[1] / "faces"  # the images that come with the package


def find_lmdb(root: str | os.PathLike[str] | None, category: str = "bedroom", split: str = "train") -> Path:
    """Finds the LMDB folder: ``root`` itself, or in it ``bedroom_train_lmdb``; the shipped faces for None.

    Args:
        root: an LMDB folder, or the LSUN folder that holds the LMDB folders of its categories.
        category: a category of LSUN.
        split: ``train`` or ``val``.

    Raises:
        InputError: when there is none.
    """
    folder, name = FACES if root is None else Path(root).expanduser(), f"{category}_{split}_lmdb"
    candidates = [folder / name]
    if (category, split) == ("bedroom", "train"):
        candidates.insert(0, folder)
    try:
        for candidate in candidates:
            if (candidate / "data.mdb").is_file():
                return candidate.resolve()
    except PermissionError as error:
        raise InputError("root", folder, "may not be read. Ask for permission to read it.") from error
    problem = "is a file" if folder.is_file() else "holds no LMDB" if folder.exists() else "does not exist"
    raise InputError("root", folder, f"{problem}. Give an LMDB folder, or the LSUN folder that holds {name}.")


def open_categories(root: str | os.PathLike[str] | None, categories: Sequence[str], split: str = "train") -> Source:
    """Opens categories of LSUN, such as ``church_outdoor``, one after the other, each labelled as its ``class``.

    Raises:
        InputError: for a folder that is not LSUN's, and a category that is not there or given twice.
    """
    if root is None:
        raise InputError("categories", " ".join(categories), "need LSUN's folder. Give it by --data.root.")
    folder = Path(root).expanduser()
    names = sorted(path.name.removesuffix(f"_{split}_lmdb") for path in folder.glob(f"*_{split}_lmdb"))
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
# path -> (process, inode, smallest valid size of the file, environment).
_open_environments: dict[Path, tuple[int, int, int, lmdb.Environment]] = {}


def open_lmdb(path: Path) -> lmdb.Environment:
    """Opens an LMDB for reading, once a process; without a lock, so that it may lie on a read-only disk.

    Raises:
        InputError: for an LMDB that is invalid, unreadable, truncated or empty.
    """
    import lmdb  # here, so that other sources do not need the package

    stat = (path / "data.mdb").stat()
    owner = (os.getpid(), stat.st_ino)
    if path in _open_environments:
        process, inode, smallest, environment = _open_environments[path]
        if (process, inode) == owner:
            _check_size(path, stat.st_size, smallest)
            return environment
        del _open_environments[path]
        environment.close()
    if not os.access(path / "data.mdb", os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError("root", path, "its data.mdb may not be read. Ask for permission to read it.")
    try:
        environment = lmdb.open(os.fspath(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise InputError("root", path, f"its data.mdb is not a valid LMDB ({error}). Build it again.") from error
    if environment.stat()["entries"] == 0:
        environment.close()
        raise InputError("root", path, "is an empty LMDB. Build one from a folder of images by scripts/build_lmdb.py.")
    smallest = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    _check_size(path, stat.st_size, smallest)
    _open_environments[path] = (*owner, smallest, environment)
    return environment


def _check_size(path: Path, size: int, smallest: int) -> None:
    """Raises InputError for a truncated file: reading a page behind its end would kill the process (SIGBUS)."""
    if size < smallest:
        remedy = f"its data.mdb has {size} of {smallest} bytes; it was truncated. Copy it again."
        raise InputError("root", path, remedy)


def fingerprint(path: Path) -> tuple[Any, ...]:
    """Returns an LMDB's location and what changes with it: inode, size, times, last transaction, number of records."""
    stat, environment = (path / "data.mdb").stat(), open_lmdb(path)
    times = (stat.st_mtime_ns, stat.st_ctime_ns, environment.info()["last_txnid"])
    return (os.fspath(path), stat.st_ino, stat.st_size, *times, environment.stat()["entries"])


def read_keys(path: Path) -> np.ndarray:
    """Returns the LMDB's keys in order: (N,) records of ``length`` and zero-padded ``key`` bytes.

    The first call lists them with a cursor and keeps the list in the cache folder, as a NumPy file that later calls map
    into memory. The file's name is the database's ``fingerprint``, so that a changed database is listed again.
    """
    name = hashlib.sha256(repr(fingerprint(path)).encode()).hexdigest()[:32]
    file = cache_folder() / "keys" / f"{name}.npy"
    if not file.exists():
        if min(run_in_subprocesses([functools.partial(_try_to_list, path)])) < 0:
            raise InputError("root", path, "its data.mdb is damaged and crashes liblmdb. Copy it again.")
        import lmdb

        try:
            array = pack_keys(_list_keys(path))
        except lmdb.Error as error:
            raise InputError("root", path, f"its data.mdb is damaged ({error}). Copy it again.") from error
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda opened: np.save(opened, array, allow_pickle=False), shared=True)
        except OSError as error:
            log.warning("cannot keep the list of keys in %s (%s); every start will list them", file.parent, error)
            return array
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _list_keys(path: Path) -> list[bytes]:
    with open_lmdb(path).begin() as transaction:
        return list(transaction.cursor().iternext(keys=True, values=False))


def _try_to_list(path: Path) -> None:
    import lmdb

    with contextlib.suppress(lmdb.Error, InputError):
        _list_keys(path)


class LMDBSource:
    """The images of an LMDB, in key order; a ``Source``.

    Each process opens the LMDB when it first reads, so that workers may be started by fork, spawn or forkserver.

    Args:
        root: an LMDB folder, the LSUN folder that holds ``bedroom_train_lmdb``, or None for the shipped faces.
        category: the label ``class`` of all images.

    Raises:
        InputError: for a root without a readable LMDB.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, category: str | None = None):
        self.path = find_lmdb(root)
        self._category = {} if category is None else {"class": category}
        self.keys = read_keys(self.path)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        return fingerprint(self.path)

    def key(self, index: int) -> bytes:
        length, key = self.keys[index]
        return key.tobytes()[:length]

    @functools.cached_property
    def _table(self) -> dict[bytes, dict[str, str]]:
        return read_labels(self.path, (self.key(row) for row in range(len(self))))

    @property
    def labels(self) -> Labels | None:
        """Returns the category and the labels in ``attributes.csv`` beside ``data.mdb``; None without either.

        Raises:
            InputError: when that file belongs to other images.
        """
        return self._labels_of_row if self._category or self._table else None

    def _labels_of_row(self, index: int) -> dict[str, str]:
        return self._category | self._table.get(self.key(index), {})

    def read(self, index: int) -> bytes:
        """Returns the encoded image of row ``index``.

        Raises:
            ReadError: for a record that is gone.
        """
        with open_lmdb(self.path).begin() as transaction:
            record = transaction.get(self.key(index))
        if record is None:
            key = f"key {key_text(self, index)} of"
            raise ReadError(key, self.path, "is gone; the LMDB was changed after the start. Start again.")
        return record

    def __getstate__(self) -> dict[str, Any]:
        # pickle would copy a memory map to each worker; the name of its file is enough
        state = {name: value for name, value in self.__dict__.items() if name != "_table"}
        if isinstance(self.keys, np.memmap):
            state["keys"] = self.keys.filename
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self.keys, np.ndarray):
            self.keys = np.load(self.keys, mmap_mode="r", allow_pickle=False)
