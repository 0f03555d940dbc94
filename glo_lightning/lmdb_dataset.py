"""Images by index, out of an LMDB as LSUN has them."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from glo_lightning.errors import InputError, check_choice, check_image_size

log = logging.getLogger(__name__)

EMOJI = Path(__file__).parent / "emoji"  # the images that come with the package


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/glo_lightning``, else ``~/.cache/glo_lightning``; not created here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glo_lightning"


def find_lmdb(root: str | os.PathLike[str] | None) -> Path:
    """Returns the LMDB folder that ``root`` means: itself, or its ``bedroom_train_lmdb``; the emoji for None.

    Raises:
        InputError: when there is none.
    """
    folder = EMOJI if root is None else Path(root).expanduser()
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


def identity(path: Path) -> tuple[Any, ...]:
    """Whatever changes with an LMDB: its place, inode, size, times, last transaction, number of records."""
    stat, environment = (path / "data.mdb").stat(), open_lmdb(path)
    times = (stat.st_mtime_ns, stat.st_ctime_ns, environment.info()["last_txnid"])
    return (os.fspath(path), stat.st_ino, stat.st_size, *times, environment.stat()["entries"])


def read_keys(path: Path) -> np.ndarray:
    """Returns the LMDB's keys in its own order: (N,) records of ``length`` and zero-padded ``key`` bytes.

    The list is made once with a cursor and then kept in the cache folder as a NumPy file without pickle, which is
    mapped into memory. Its name is the database's ``identity``, so a changed one is listed anew.
    """
    name = hashlib.sha256(repr(identity(path)).encode()).hexdigest()[:32]
    file = cache_folder() / "keys" / f"{name}.npy"
    if not file.exists():
        try:
            with open_lmdb(path).begin() as transaction:
                keys = list(transaction.cursor().iternext(keys=True, values=False))
        except lmdb.Error as error:
            raise InputError("root", path, f"its data.mdb is damaged ({error}); copy it again") from error
        dtype = np.dtype([("length", "<u2"), ("key", f"V{max(map(len, keys))}")])
        array = np.array([(len(key), key) for key in keys], dtype)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=file.parent) as folder:  # gone, also when the disk is full
                np.save(Path(folder) / file.name, array, allow_pickle=False)
                os.replace(Path(folder) / file.name, file)
        except OSError as error:
            log.warning("the list of keys cannot be kept in %s (%s): every start will make it anew", file.parent, error)
            return array
    return np.load(file, mmap_mode="r", allow_pickle=False)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB: transparency laid on white, 16-bit greys scaled, turned as its EXIF tag says."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def decode_image(record: bytes, image_size: int) -> Tensor:
    """Decodes WebP, JPEG, PNG or whatever Pillow reads into a uint8 RGB image (3, image_size, image_size).

    The shorter side is resized (bilinear, antialiased) and the centre cropped, in one step.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: for bytes that are no image, as Pillow does.
    """
    with Image.open(io.BytesIO(record)) as opened:
        image = ImageOps.fit(to_rgb(opened), (image_size, image_size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class LMDBDataset(Dataset[tuple[Tensor, Any]]):
    """The images of an LMDB by index, in key order: ``dataset[i] -> (image, i)``, image uint8 (3, H, W).

    Row i is the i-th key, whatever the order of training; a smaller ``num_samples`` is a prefix. A list of B indices
    gives a batch: images (B, 3, H, W) and indices (B,). The LMDB is opened lazily by each process that reads, so
    the dataset may be handed to workers started by fork, spawn or forkserver.

    Args:
        root: an LMDB folder, the LSUN folder that holds ``bedroom_train_lmdb``, or None for the shipped emoji.
        image_size: H and W.
        num_samples: N; all if not given.
        on_error: ``raise``, or ``skip`` records that are no images: they are left out of batches, with a warning.

    Raises:
        InputError: for a root without a readable LMDB, ``num_samples`` out of range, and, when an image is asked
            for, a record that is no image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        image_size: int = 64,
        num_samples: int | None = None,
        on_error: str = "raise",
    ):
        check_image_size(image_size)
        check_choice("on_error", on_error, ("raise", "skip"))
        self.path = find_lmdb(root)
        self.image_size, self.on_error = image_size, on_error
        keys = read_keys(self.path)
        if num_samples is not None and not 1 <= num_samples <= len(keys):
            raise InputError("num_samples", num_samples, f"{self.path} has {len(keys)} images: give 1 to {len(keys)}")
        self.keys = keys[:num_samples]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Any]:
        if not isinstance(index, Sequence):
            return self.read(index), index
        images, rows = [], []
        for row in index:
            try:
                images.append(self.read(row))
                rows.append(row)
            except InputError as error:
                if self.on_error == "raise":
                    raise
                log.warning("%s", error)
        return torch.stack(images) if images else torch.empty(0, 3, *[self.image_size] * 2), torch.tensor(rows)

    def key(self, index: int) -> bytes:
        """The LMDB key of row ``index``."""
        length, key = self.keys[index]
        return key.tobytes()[:length]

    def digest(self, num_rows: int | None = None) -> str:
        """SHA-256 of the keys of the first rows, or of all: it ties a latent table to its images."""
        lengths, keys = self.keys["length"][:num_rows], self.keys["key"][:num_rows]
        width = int(lengths.max())  # of these rows alone: a prefix has one digest, whatever follows it
        return hashlib.sha256(lengths.tobytes() + keys.astype(f"V{width}").tobytes()).hexdigest()

    def read(self, index: int) -> Tensor:
        """The image of row ``index``, (3, H, W), uint8."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not one of 0 to {len(self) - 1}")
        key = self.key(index)
        with open_lmdb(self.path).begin() as transaction:
            record = transaction.get(key)
        name = key.decode(errors="backslashreplace")
        if record is None:
            raise InputError(f"key {name} of", self.path, "is gone: the LMDB has been written to meanwhile; begin anew")
        try:
            return decode_image(record, self.image_size)
        except (OSError, ValueError, SyntaxError, OverflowError, Image.DecompressionBombError) as error:
            why = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
            raise InputError(
                f"key {name} of", self.path, f"is not an image ({why}); leave it out by --data.on_error skip"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled as a copy for each worker: send its file's name instead.
        state = self.__dict__.copy()
        if isinstance(self.keys, np.memmap):
            state["keys"] = (self.keys.filename, len(self.keys))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.keys, tuple):
            file, length = self.keys
            self.keys = np.load(file, mmap_mode="r", allow_pickle=False)[:length]
