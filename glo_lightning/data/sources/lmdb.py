"""Images out of an LMDB as LSUN has them, in key order."""

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
from glo_lightning.data.source import ConcatSource, Labels, Source
from glo_lightning.data.subprocesses import run_in_subprocesses
from glo_lightning.errors import InputError, ReadError, did_you_mean
from glo_lightning.files import cache_folder, write_whole

if TYPE_CHECKING:
    import lmdb

log = logging.getLogger(__name__)

FACES = Path(__file__).parents[1] / "faces"  # the images that come with the package


def find_lmdb(root: str | os.PathLike[str] | None, category: str = "bedroom", split: str = "train") -> Path:
    """Returns the LMDB folder that ``root`` means: itself, or its ``bedroom_train_lmdb``; the faces for None.

    Args:
        root: an LMDB folder, or the LSUN folder that holds those of its categories.
        category: of LSUN.
        split: of LSUN, ``train`` or ``val``.

    Raises:
        InputError: when there is none.
    """
    folder, name = FACES if root is None else Path(root).expanduser(), f"{category}_{split}_lmdb"
    own = [folder] if (category, split) == ("bedroom", "train") else []
    try:
        for candidate in (*own, folder / name):
            if (candidate / "data.mdb").is_file():
                return candidate.resolve()
    except PermissionError as error:
        raise InputError("root", folder, "may not be read; ask for the permission to read it") from error
    what = "is a file" if folder.is_file() else "holds no LMDB" if folder.exists() else "does not exist"
    raise InputError("root", folder, f"{what}; give an LMDB folder or the LSUN folder that holds {name}")


def open_categories(root: str | os.PathLike[str] | None, categories: Sequence[str], split: str = "train") -> Source:
    """LSUN's classes of these names, such as ``church_outdoor``, joined in this order and labelled ``class``.

    Raises:
        InputError: for a folder that is not LSUN's, and a class that it does not hold or that is given twice.
    """
    if root is None:
        raise InputError("categories", " ".join(categories), "are of LSUN; give its folder by --data.root as well")
    folder = Path(root).expanduser()
    names = sorted(path.name.removesuffix(f"_{split}_lmdb") for path in folder.glob(f"*_{split}_lmdb"))
    if not names:
        remedy = f"is no LSUN folder (no *_{split}_lmdb in it); give that, or leave out --data.categories"
        raise InputError("root", folder, remedy)
    for position, category in enumerate(categories):
        if category not in names:
            remedy = f"{folder} has no {category}_{split}_lmdb; {did_you_mean(category, names)}"
            raise InputError("categories", category, remedy)
        if category in categories[:position]:
            raise InputError("categories", category, "is given twice; give it once")
    return ConcatSource([LMDBSource(find_lmdb(folder, name, split), category=name) for name in categories])


# An environment can be opened once in a process and must not cross a fork:
# path -> (process, inode, least size of the file, environment).
_open_environments: dict[Path, tuple[int, int, int, lmdb.Environment]] = {}


def open_lmdb(path: Path) -> lmdb.Environment:
    """Opens the LMDB for reading, without a lock so that it may lie on a read-only disk, once a process.

    Raises:
        InputError: when it is no LMDB, may not be read, is shorter than it says, or holds no record.
    """
    import lmdb  # here alone, and where the keys are read: a source of one's own needs none

    stat = (path / "data.mdb").stat()
    owner = (os.getpid(), stat.st_ino)
    if path in _open_environments:
        process, inode, size, environment = _open_environments[path]
        if (process, inode) == owner:
            _check_size(path, stat.st_size, size)
            return environment
        del _open_environments[path]
        environment.close()
    if not os.access(path / "data.mdb", os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError("root", path, "its data.mdb may not be read; ask for the permission to read it")
    try:
        environment = lmdb.open(os.fspath(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise InputError("root", path, f"its data.mdb cannot be read as an LMDB ({error}); make it anew") from error
    if environment.stat()["entries"] == 0:
        environment.close()
        raise InputError("root", path, "this LMDB is empty; scripts/build_lmdb.py makes one from a folder of images")
    size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    _check_size(path, stat.st_size, size)
    _open_environments[path] = (*owner, size, environment)
    return environment


def _check_size(path: Path, size: int, least: int) -> None:
    """A page that lies behind the end of the file must not be asked for: the system would end the process (SIGBUS)."""
    if size < least:
        remedy = f"its data.mdb has {size} bytes of the {least} that it speaks of: it was cut off; copy it again"
        raise InputError("root", path, remedy)


def fingerprint(path: Path) -> tuple[Any, ...]:
    """The place of an LMDB, and whatever changes with it: inode, size, times, last transaction, number of records."""
    stat, environment = (path / "data.mdb").stat(), open_lmdb(path)
    times = (stat.st_mtime_ns, stat.st_ctime_ns, environment.info()["last_txnid"])
    return (os.fspath(path), stat.st_ino, stat.st_size, *times, environment.stat()["entries"])


def read_keys(path: Path) -> np.ndarray:
    """Returns the LMDB's keys in its own order: (N,) records of ``length`` and zero-padded ``key`` bytes.

    The list is made once with a cursor and then kept in the cache folder as a NumPy file without pickle, which is
    mapped into memory. Its name is the database's ``fingerprint``, so a changed one is listed anew.
    """
    name = hashlib.sha256(repr(fingerprint(path)).encode()).hexdigest()[:32]
    file = cache_folder() / "keys" / f"{name}.npy"
    if not file.exists():
        if min(run_in_subprocesses([functools.partial(_try_to_list, path)])) < 0:
            raise InputError("root", path, "its data.mdb is damaged (liblmdb dies of it); copy it again")
        import lmdb

        try:
            keys = _list_keys(path)
        except lmdb.Error as error:
            raise InputError("root", path, f"its data.mdb is damaged ({error}); copy it again") from error
        dtype = np.dtype([("length", "<u2"), ("key", f"V{max(map(len, keys))}")])
        array = np.array([(len(key), key) for key in keys], dtype)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda opened: np.save(opened, array, allow_pickle=False), shared=True)
        except OSError as error:
            log.warning("the list of keys cannot be kept in %s (%s): every start will make it anew", file.parent, error)
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
    """The images of an LMDB by index, in key order; a ``Source``.

    Row i is the i-th key, whatever the order of training. The LMDB is opened lazily by each process that reads, so the
    source may be handed to workers started by fork, spawn or forkserver.

    Args:
        root: an LMDB folder, the LSUN folder that holds ``bedroom_train_lmdb``, or None for the shipped faces.
        category: what all its images are labelled as their ``class``.

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
        """Of the whole database, see ``fingerprint``."""
        return fingerprint(self.path)

    def key(self, index: int) -> bytes:
        """The LMDB key of row ``index``."""
        length, key = self.keys[index]
        return key.tobytes()[:length]

    @functools.cached_property
    def _labels(self) -> dict[bytes, dict[str, str]]:
        return read_labels(self.path, (self.key(row) for row in range(len(self))))

    @property
    def labels(self) -> Labels | None:
        """Gives the category, and what ``attributes.csv``, beside ``data.mdb``, says of an image; None without both.

        Raises:
            InputError: when it names other images.
        """
        return self._labels_of_row if self._category or self._labels else None

    def _labels_of_row(self, index: int) -> dict[str, str]:
        return self._category | self._labels.get(self.key(index), {})

    def record(self, index: int) -> bytes | None:
        """The bytes of row ``index`` as they lie in the LMDB; None where they are gone."""
        with open_lmdb(self.path).begin() as transaction:
            return transaction.get(self.key(index))

    def read(self, index: int) -> bytes:
        """The encoded image of row ``index``.

        Raises:
            ReadError: for a record that is gone.
        """
        record = self.record(index)
        if record is None:
            key = f"key {self.key(index).decode(errors='backslashreplace')} of"
            raise ReadError(key, self.path, "is gone: the LMDB has been written to meanwhile; begin anew")
        return record

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled as a copy for each worker: send its file's name instead.
        state = {name: value for name, value in self.__dict__.items() if name != "_labels"}
        if isinstance(self.keys, np.memmap):
            state["keys"] = self.keys.filename
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self.keys, np.ndarray):
            self.keys = np.load(self.keys, mmap_mode="r", allow_pickle=False)
