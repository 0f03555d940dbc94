"""Images out of an LMDB as LSUN has them, in key order."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from glo_lightning.data.attributes import FILE, Attributes, read_attributes
from glo_lightning.errors import InputError
from glo_lightning.files import write_whole
from glo_lightning.images import NotAnImageError, decode_image

if TYPE_CHECKING:
    import lmdb

log = logging.getLogger(__name__)

FACES = Path(__file__).parent / "faces"  # the images that come with the package


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/glo_lightning``, else ``~/.cache/glo_lightning``; not created here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glo_lightning"


def find_lmdb(root: str | os.PathLike[str] | None) -> Path:
    """Returns the LMDB folder that ``root`` means: itself, or its ``bedroom_train_lmdb``; the faces for None.

    Raises:
        InputError: when there is none.
    """
    folder = FACES if root is None else Path(root).expanduser()
    try:
        for candidate in (folder, folder / "bedroom_train_lmdb"):
            if (candidate / "data.mdb").is_file():
                return candidate.resolve()
    except PermissionError as error:
        raise InputError("root", folder, "may not be read; ask for the permission to read it") from error
    what = "is a file" if folder.is_file() else "holds no LMDB" if folder.exists() else "does not exist"
    raise InputError("root", folder, f"{what}; give an LMDB folder or the LSUN folder that holds bedroom_train_lmdb")


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
        import lmdb

        try:
            with open_lmdb(path).begin() as transaction:
                keys = list(transaction.cursor().iternext(keys=True, values=False))
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


class LMDBSource:
    """The images of an LMDB by index, in key order; a ``Source``.

    Row i is the i-th key, whatever the order of training; a smaller ``num_samples`` is a prefix. The LMDB is opened
    lazily by each process that reads, so the source may be handed to workers started by fork, spawn or forkserver.

    Args:
        root: an LMDB folder, the LSUN folder that holds ``bedroom_train_lmdb``, or None for the shipped faces.
        image_size: H and W.
        num_samples: N; all if not given.

    Raises:
        InputError: for a root without a readable LMDB, and ``num_samples`` out of range.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, image_size: int = 64, num_samples: int | None = None
    ):
        self.path = find_lmdb(root)
        self.image_size = image_size
        keys = read_keys(self.path)
        if num_samples is not None and not 1 <= num_samples <= len(keys):
            raise InputError("num_samples", num_samples, f"{self.path} has {len(keys)} images: give 1 to {len(keys)}")
        self.keys = keys[:num_samples]

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
    def attributes(self) -> Attributes | None:
        """What ``attributes.csv``, beside ``data.mdb``, says of these images; None without such a file.

        Raises:
            InputError: when it names other images.
        """
        file = self.path / FILE
        return read_attributes(file, [self.key(row) for row in range(len(self))]) if file.is_file() else None

    def record(self, index: int) -> bytes | None:
        """The bytes of row ``index`` as they lie in the LMDB; None where they are gone."""
        with open_lmdb(self.path).begin() as transaction:
            return transaction.get(self.key(index))

    def read(self, index: int) -> Tensor:
        """The image of row ``index``, (3, H, W), uint8.

        Raises:
            InputError: for a record that is no image, or is gone.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not one of 0 to {len(self) - 1}")
        record, key = self.record(index), f"key {self.key(index).decode(errors='backslashreplace')} of"
        if record is None:
            raise InputError(key, self.path, "is gone: the LMDB has been written to meanwhile; begin anew")
        try:
            return decode_image(record, self.image_size)
        except NotAnImageError as error:
            remedy = f"is not an image ({error}); leave it out by --data.on_bad_record skip"
            raise InputError(key, self.path, remedy) from error

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled as a copy for each worker: send its file's name instead.
        state = {name: value for name, value in self.__dict__.items() if name != "attributes"}
        if isinstance(self.keys, np.memmap):
            state["keys"] = (self.keys.filename, len(self.keys))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.keys, tuple):
            file, length = self.keys
            self.keys = np.load(file, mmap_mode="r", allow_pickle=False)[:length]
