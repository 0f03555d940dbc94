"""Images by index, out of an LMDB as LSUN has them, and the LightningDataModule around them."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from glo_lightning.errors import InputError, check_at_least, check_image_size

log = logging.getLogger(__name__)

EMOJI = Path(__file__).parent / "emoji"  # the images that come with the package


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/glo_lightning``, else ``~/.cache/glo_lightning``; not created here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glo_lightning"


# ---------------------------------------------------------------------------------------------------- LMDB and images


def find_lmdb(root: str | os.PathLike[str] | None) -> Path:
    """Returns the LMDB folder that ``root`` means: itself, or its ``bedroom_train_lmdb``; the emoji for None.

    Raises:
        InputError: when there is none.
    """
    folder = EMOJI if root is None else Path(root).expanduser()
    for candidate in (folder, folder / "bedroom_train_lmdb"):
        if (candidate / "data.mdb").is_file():
            return candidate.resolve()
    what = "is a file" if folder.is_file() else "holds no LMDB" if folder.exists() else "does not exist"
    raise InputError("root", folder, f"{what}; give an LMDB folder or the LSUN folder that holds bedroom_train_lmdb")


# An environment can be opened once in a process and must not cross a fork: path -> (process, file, environment).
_open_environments: dict[Path, tuple[int, int, lmdb.Environment]] = {}


def open_lmdb(path: Path) -> lmdb.Environment:
    """Opens the LMDB for reading, without a lock so that it may lie on a read-only disk, once a process.

    Raises:
        InputError: when it is no LMDB, or holds no record.
    """
    owner = (os.getpid(), (path / "data.mdb").stat().st_ino)
    if path in _open_environments:
        *opened_by, environment = _open_environments[path]
        if tuple(opened_by) == owner:
            return environment
        del _open_environments[path]
        environment.close()
    try:
        environment = lmdb.open(os.fspath(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise InputError("root", path, f"its data.mdb cannot be read as an LMDB ({error}); make it anew") from error
    if environment.stat()["entries"] == 0:
        environment.close()
        raise InputError("root", path, "this LMDB is empty; scripts/build_lmdb.py makes one from a folder of images")
    _open_environments[path] = (*owner, environment)
    return environment


def read_keys(path: Path) -> np.ndarray:
    """Returns the LMDB's keys in its own order: (N,) records of ``length`` and zero-padded ``key`` bytes.

    The list is made once with a cursor and then kept in the cache folder as a NumPy file without pickle, which is
    mapped into memory. Its name holds whatever changes with the database (place, inode, size, times, last
    transaction), so a changed one is listed anew.
    """
    environment = open_lmdb(path)
    stat = (path / "data.mdb").stat()
    times = (stat.st_mtime_ns, stat.st_ctime_ns, environment.info()["last_txnid"])
    identity = (os.fspath(path), stat.st_ino, stat.st_size, *times, environment.stat()["entries"])
    file = cache_folder() / "keys" / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.npy"
    if not file.exists():
        with environment.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
        dtype = np.dtype([("length", "<u2"), ("key", f"V{max(map(len, keys))}")])
        array = np.array([(len(key), key) for key in keys], dtype)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as temporary:
                np.save(temporary, array, allow_pickle=False)
            os.replace(temporary.name, file)
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

    Raises:
        InputError: for a root without a readable LMDB, ``num_samples`` out of range, and, when an image is asked
            for, a record that is no image.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, image_size: int = 64, num_samples: int | None = None
    ):
        check_image_size(image_size)
        self.path = find_lmdb(root)
        self.image_size = image_size
        keys = read_keys(self.path)
        if num_samples is not None and not 1 <= num_samples <= len(keys):
            raise InputError("num_samples", num_samples, f"{self.path} has {len(keys)} images: give 1 to {len(keys)}")
        self.keys = keys[:num_samples]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Any]:
        if isinstance(index, Sequence):
            return torch.stack([self._read(row) for row in index]), torch.tensor(index)
        return self._read(index), index

    def key(self, index: int) -> bytes:
        """The LMDB key of row ``index``."""
        length, key = self.keys[index]
        return key.tobytes()[:length]

    def digest(self) -> str:
        """SHA-256 of the keys of all rows, which ties a latent table to its images."""
        lengths, keys = self.keys["length"], self.keys["key"]
        width = int(lengths.max())  # of these rows alone: a prefix has one digest, whatever follows it
        return hashlib.sha256(lengths.tobytes() + keys.astype(f"V{width}").tobytes()).hexdigest()

    def _read(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not one of 0 to {len(self) - 1}")
        key = self.key(index)
        with open_lmdb(self.path).begin() as transaction:
            record = transaction.get(key, default=b"")
        try:
            return decode_image(record, self.image_size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            name = key.decode(errors="backslashreplace")
            why = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
            raise InputError(f"key {name} of", self.path, f"is not an image ({why}); build the LMDB anew") from error

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


# -------------------------------------------------------------------------------------------------- order and batches


class BatchSampler(Sampler[list[int]]):
    """Every row once an epoch, in ``ceil(N / B)`` batches whose sizes differ by at most one.

    The order is a function of (seed, epoch) alone. With several processes each takes its part of every batch.

    Args:
        num_images: N.
        batch_size: B, over all processes.
        seed: None keeps the rows in order.
        rank, world_size: this process among all.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int | None = None, rank: int = 0, world_size: int = 1):
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order; Lightning calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rows = np.arange(self.num_images)
        if self.seed is not None:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(rows)
        for batch in np.array_split(rows, len(self)):
            yield np.array_split(batch, self.world_size)[self.rank].tolist()


class LSUNDataModule(LightningDataModule):
    """Batches of (images, index) for training; images are uint8 until they are on the device, then in [-1, 1].

    Args:
        root: the LSUN folder that holds ``bedroom_train_lmdb``, or an LMDB folder; the shipped emoji if not given.
        num_samples: takes the first so many images in key order; all if not given.
        image_size: H and W to resize and crop to; 32, 64 or 128.
        batch_size: images in a step, over all devices.
        num_workers: processes that decode; 0 decodes in the training process.
        seed: of the order of the images.

    Raises:
        InputError: for a value out of range; for the data itself once ``num_images`` is asked for.
    """

    def __init__(
        self,
        root: str | None = None,
        num_samples: int | None = None,
        image_size: int = 64,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_at_least("num_workers", num_workers, 0)
        check_at_least("seed", seed, 0)
        check_image_size(image_size)
        self.root, self.num_samples, self.image_size = root, num_samples, image_size
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self._dataset: LMDBDataset | None = None

    @property
    def dataset(self) -> LMDBDataset:
        if self._dataset is None:
            self._dataset = LMDBDataset(self.root, self.image_size, self.num_samples)
        return self._dataset

    @property
    def num_images(self) -> int:
        """N, the number of rows that the latent table needs."""
        return len(self.dataset)

    def train_dataloader(self) -> DataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size < world_size:
            raise InputError("batch_size", self.batch_size, f"must be at least the number of devices, {world_size}")
        return self._loader(BatchSampler(self.num_images, self.batch_size, self.seed, rank, world_size))

    def ordered_dataloader(self) -> DataLoader:
        """Batches of (uint8 images, index) that hold every row once, in order."""
        return self._loader(BatchSampler(self.num_images, self.batch_size))

    def _loader(self, sampler: BatchSampler) -> DataLoader:
        return DataLoader(
            self.dataset,
            sampler=sampler,
            batch_size=None,  # the sampler makes the batches
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, index = batch
        return to_unit_range(images), index

    def state_dict(self) -> dict[str, Any]:
        return {"keys_digest": self.dataset.digest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses a checkpoint whose rows belong to other images.

        Raises:
            InputError: when the digests of the keys differ.
        """
        if state_dict["keys_digest"] != self.dataset.digest():
            remedy = "the checkpoint's rows belong to other images; give the data that it was trained on"
            raise InputError("root", self.dataset.path, remedy)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)
