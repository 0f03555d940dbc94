"""The LightningDataModule: the way of the images from their source to the device."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import signal
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glo_lightning.data.attributes import Attributes, find_attributes
from glo_lightning.data.find_source import open_source
from glo_lightning.data.sampler import ResumableLoader, RowBatchSampler
from glo_lightning.data.source import (
    FirstImages,
    JoinedSource,
    Source,
    StreamedImages,
    TwinSource,
    channels_of,
    key_text,
    keys_digest,
    record_digests,
    sampled_rows,
)
from glo_lightning.data.store import StoredImages
from glo_lightning.distributed import all_gather_object, raise_on_all_ranks
from glo_lightning.errors import InputError, OnError, check_at_least, check_choice
from glo_lightning.images import DECODING, Crop, ImageFormat, from_uint8, mirrored

log = logging.getLogger(__name__)

# settings that a resumed run may change, by their flags
TOLD = {"crop": "--data.crop", "batch_size": "--data.batch_size", "seed": "--seed_everything"}
# What a step needs on the device beyond images and model: kernels and their workspace; for each byte of RGB images the
# default generator's activations, of which 99 bytes are kept for the way back, their gradients and the pyramids.
STEP_MEMORY, BATCH_MEMORY = 2 << 30, 256


def _ignore_signals(_: int) -> None:
    """In a worker: a signal to the whole process group is the training process's, which ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class _Rows(Dataset[Tensor]):
    """The index alone, where the images are on the device already."""

    def __getitem__(self, index: Sequence[int]) -> Tensor:
        return torch.tensor(index)


class StoredBatch(NamedTuple):
    """Images (B, C, H, W) as the store has them, those of odd rows still to be mirrored, and the rows (B,)."""

    images: Tensor
    rows: Tensor


class _Stored(Dataset[StoredBatch]):
    """The images as they are stored: the device mirrors them faster."""

    def __init__(self, images: StoredImages):
        self.images = images

    def __getitem__(self, index: Sequence[int]) -> StoredBatch:
        return StoredBatch(*self.images.stored(index))


class LSUNDataModule(LightningDataModule):
    """Batches of (images, index) for training; images are uint8 until they are on the device, then in [-1, 1].

    Args:
        root: where the images are: the LSUN folder that holds ``bedroom_train_lmdb``, an LMDB folder, a folder of
            images, of a torchvision set, of IDX or of parquet files, a ``.npy`` or ``.npz`` file; the shipped faces if
            not given.
        num_samples: takes the first so many images, in the source's order; all if not given.
        holdout: keeps the last so many of these out of training: they own no row and never reach the PCA. 16 of them
            are encoded after each epoch for ``val/psnr``.
        source: what the root is, where that is in doubt: ``lmdb``, ``folder``, ``array``, ``idx``, ``huggingface``, the
            name of a torchvision set, or the path of a class, see ``Source``; in Python also such an object.
        source_args: further arguments of that class or set.
        categories: LSUN's classes to take, in this order, such as ``bedroom church_outdoor``.
        split: of a source that has several, the one to train on.
        holdout_split: the one that is held out, or the first ``holdout`` images of it.
        download: lets a set that is not in the root be fetched.
        image_size: H and W to resize and crop to.
        channels: 1 for grey, 3 for RGB; ``auto`` is what an array or a torchvision set has, else 3.
        crop: ``center`` of what is not square; ``none`` resizes all of it to a square.
        flip: trains on every image and its mirror image, the rows 2i and 2i + 1 of image i. ``num_samples`` and
            ``holdout`` count images, ``num_images`` rows. Of held-out images the mirror images are not shown.
        batch_size: images in a step, over all devices.
        num_workers: processes that decode when nothing is cached; 0 decodes in the training process.
        cache: decodes every image once, in processes of its own, into a store in the user's cache folder; otherwise
            each is decoded whenever it is wanted, and a damaged LMDB may end the run without a word.
        device_resident: ``true`` keeps the decoded images on the accelerator, ``auto`` where they leave room there for
            a step; a batch is then an index.
        on_bad_record: ``raise``, or ``skip`` records that are no images; their rows belong to them all the same.
        seed: of the order of the images.

    Raises:
        InputError: for a value out of range; for the data itself once ``num_images`` or a loader is asked for.
    """

    def __init__(
        self,
        root: str | None = None,
        num_samples: int | None = None,
        holdout: int = 0,
        image_size: int = 64,
        batch_size: int = 128,
        num_workers: int = 0,
        cache: bool = True,
        device_resident: bool | Literal["auto", "true", "false"] = "auto",
        on_bad_record: OnError = "raise",
        seed: int = 0,
        source: str | Source | None = None,
        source_args: dict[str, Any] | None = None,
        categories: list[str] | None = None,
        split: str = "train",
        holdout_split: str | None = None,
        download: bool = False,
        channels: Literal["auto", 1, 3] = "auto",
        crop: Crop = "center",
        flip: bool = False,
    ):
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_at_least("num_workers", num_workers, 0)
        check_at_least("holdout", holdout, 0)
        check_at_least("seed", seed, 0)
        check_at_least("image_size", image_size, 1)
        self.device_resident = str(device_resident).lower()  # YAML reads true and false as booleans
        check_choice("device_resident", self.device_resident, ("auto", "true", "false"))
        if self.device_resident == "true" and not cache:
            raise InputError(
                "device_resident", "true", "images that are not cached cannot be kept; give --data.cache true"
            )
        check_choice("on_bad_record", on_bad_record, OnError)
        self.root, self.num_samples, self.holdout = root, num_samples, holdout
        self.image_size, self.on_bad_record = image_size, on_bad_record
        self.batch_size, self.num_workers, self.cache, self.seed = batch_size, num_workers, cache, seed
        if channels not in ("auto", 1, 3):
            raise InputError("channels", channels, "give auto, 1 for grey or 3 for RGB")
        check_choice("crop", crop, Crop)
        self.channels, self.crop, self.flip = channels, crop, flip
        if holdout_split == split:
            raise InputError("holdout_split", split, "is the split to train on; give another, or --data.holdout alone")
        self.split, self.holdout_split = split, holdout_split
        self._opened_by: dict[str, Any] = {"source": source, "source_args": source_args}
        self._opened_by |= {"categories": categories, "download": download}
        self._resident: Tensor | None = None

    @functools.cached_property
    def source(self) -> Source:
        """Where the images come from, the held-out ones last; a subclass with images of its own may override it."""
        source = self._open(self.split, "num_samples", self.num_samples)
        if self.holdout_split is not None:
            source = JoinedSource([source, self._open(self.holdout_split, "holdout", self.holdout or None)])
        return TwinSource(source) if self.flip else source

    def _open(self, split: str, key: str, num_images: int | None) -> Source:
        source = open_source(self.root, split=split, **self._opened_by)
        return source if num_images is None else FirstImages(source, num_images, key)

    @functools.cached_property
    def dataset(self) -> StreamedImages | StoredImages:
        """The images by index; the first use decodes what is not in the store yet."""
        images = StoredImages if self.cache else StreamedImages
        return images(self.source, self.image_format, self.on_bad_record)

    @property
    def image_format(self) -> ImageFormat:
        """What every image is made to be."""
        return ImageFormat(self.image_size, self.num_channels, self.crop)

    @property
    def num_channels(self) -> int:
        """C, of the images; the generator's."""
        return channels_of(self.source) if self.channels == "auto" else self.channels

    @functools.cached_property
    def attributes(self) -> Attributes | None:
        """What is known of the images by row, the held-out ones among them; None where nothing is.

        Raises:
            InputError: when it belongs to other images.
        """
        return find_attributes(self.source)

    @property
    def num_images(self) -> int:
        """N, the number of rows that the latent table needs.

        Raises:
            InputError: when no image is left besides those held out.
        """
        images = self.source.source if isinstance(self.source, TwinSource) else self.source
        number = len(images) - self.holdout
        if self.holdout_split is not None:
            assert isinstance(images, JoinedSource)
            number = images.ends[0]
        if number < 1:
            raise InputError("holdout", self.holdout, f"leaves none of {len(images)} images; give a smaller one")
        return self.rows_per_image * number

    @property
    def rows_per_image(self) -> int:
        """2 where each image has a mirror image, else 1."""
        return 2 if isinstance(self.source, TwinSource) else 1

    def original_rows(self, most: int) -> list[int]:
        """The rows of the first so many training images, none of them mirrored."""
        return list(range(0, self.num_images, self.rows_per_image))[:most]

    def setup(self, stage: str) -> None:
        """Decodes what is not in the store yet: in the first process, then in the first of each other node, if need be.

        So nodes that share a cache folder never write into it at once, whatever locks are worth on their disk.

        Raises:
            InputError: in all processes, when one cannot read its images, or has others than the first.
        """
        rank, world_size = self._place()
        with raise_on_all_ranks():
            if world_size > 1 and self.on_bad_record == "skip" and not self.cache:
                remedy = "makes parts of unknown size in several processes; give --data.cache true, which knows them"
                raise InputError("on_bad_record", "skip", remedy)
            digest = self._keys_digest if world_size > 1 else None
        firsts = all_gather_object(digest)[0]
        with raise_on_all_ranks():
            if digest != firsts:
                remedy = f"process {rank} has other images there than the first process; give all nodes the same"
                raise InputError("root", self.source.fingerprint[0], remedy)
        # the nodes' first processes in turn, and then all: what one has decoded the others find
        turn = 0 if rank == 0 else 1 if self.trainer and self.trainer.local_rank == 0 else 2
        for now in range(3):
            with raise_on_all_ranks():
                if turn == now:
                    _ = self.dataset
        with raise_on_all_ranks():
            self._order(self.seed, rank, world_size)

    def _place(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        resident = self._resident_images() is not None
        return self._loader(_Rows() if resident else self._unmirrored(), self.seed, *self._place())

    def _unmirrored(self) -> Dataset:
        """The dataset, whose mirror images ``on_after_batch_transfer`` makes where they are not stored."""
        late = isinstance(self.dataset, StoredImages) and self.rows_per_image == 2
        return _Stored(self.dataset) if late else self.dataset  # type: ignore[arg-type]

    def predict_dataloader(self) -> DataLoader:
        """As ``ordered_dataloader``; of several processes each has its part of every batch."""
        return self._loader(self.dataset, None, *self._place())

    def ordered_dataloader(self) -> DataLoader:
        """Batches of (uint8 images, index) that hold every row once, in order."""
        return self._loader(self.dataset, None)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """One batch of held-out images, the first 16; nothing without a holdout."""
        rows = self.holdout_rows(16)
        return DataLoader(self.dataset, batch_size=None, sampler=[rows]) if rows else []

    def holdout_rows(self, most: int) -> list[int]:
        """The indices of the first so many held-out images, in the dataset; those that cannot be read left out."""
        skipped = set(self.dataset.skipped.tolist()) if isinstance(self.dataset, StoredImages) else set()
        held_out = range(self.num_images, len(self.source), self.rows_per_image)
        rows = (row for row in held_out if row not in skipped)
        return list(itertools.islice(rows, most))

    def _order(self, seed: int | None, rank: int, world_size: int) -> RowBatchSampler:
        skipped: Sequence[int] | np.ndarray = ()
        if isinstance(self.dataset, StoredImages):
            skipped = self.dataset.skipped
        return RowBatchSampler(self.num_images, self.batch_size, seed, rank, world_size, skipped)

    def _loader(self, dataset: Dataset, seed: int | None, rank: int = 0, world_size: int = 1) -> DataLoader:
        # out of the store a batch is one gather
        workers = 0 if isinstance(self.dataset, StoredImages) else self.num_workers
        loader = DataLoader if seed is None else ResumableLoader
        return loader(
            dataset,
            sampler=self._order(seed, rank, world_size),
            batch_size=None,  # the sampler makes the batches
            num_workers=workers,
            worker_init_fn=_ignore_signals,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=workers > 0,
        )

    def _resident_images(self) -> Tensor | None:
        """The decoded images on the trainer's device, if they are to be kept there; moved once."""
        if not self.trainer or not isinstance(self.dataset, StoredImages):
            return None
        device, images = self.trainer.strategy.root_device, self.dataset.images
        if self._resident is not None and self._resident.device != device:
            self._resident = None
        if self._resident is None and self._are_to_be_resident(device, images):
            self._resident = images.to(device, copy=True)
        return self._resident

    def _are_to_be_resident(self, device: torch.device, images: Tensor) -> bool:
        if self.device_resident != "auto" or device.type != "cuda":
            return self.device_resident == "true"
        free = torch.cuda.mem_get_info(device)[0]  # the model is there by now
        needed = images.nbytes + STEP_MEMORY + BATCH_MEMORY * self.batch_size * 3 * self.image_size**2
        sizes = [size / 1e9 for size in (images.nbytes, needed - images.nbytes, free)]
        where = "device" if needed <= free else "host"
        log.info("images stay on the %s: they take %.1f GB, a step up to %.1f, and the device has %.1f", where, *sizes)
        return needed <= free

    @property
    def resident_bytes(self) -> int:
        """Of the images that are on the device now."""
        return 0 if self._resident is None else self._resident.nbytes

    def teardown(self, stage: str) -> None:
        self._resident = None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        if self._resident is not None and isinstance(batch, Tensor):
            batch = StoredBatch(self._resident[batch // self.rows_per_image], batch)
        images, index = batch
        if isinstance(batch, StoredBatch) and self.rows_per_image == 2:
            images = mirrored(images, index % 2 == 1)
        return from_uint8(images), index

    @functools.cached_property
    def _keys_digest(self) -> str:
        return keys_digest(self.source, self.num_images)

    @functools.cached_property
    def record_digests(self) -> list[int]:
        """Of the training images; see ``source.record_digests``."""
        return record_digests(self.source, self.num_images)

    def _fingerprint_digest(self) -> str:
        return hashlib.sha256(repr(self.source.fingerprint).encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """What ties a checkpoint to its images, and what is known of them, the held-out ones among them."""
        labels = None if self.attributes is None else self.attributes.state()
        return {
            "keys_digest": self._keys_digest,
            "record_digests": torch.tensor(self.record_digests),
            "fingerprint": self._fingerprint_digest(),
            "labels": labels,
            "decoding": DECODING,
            "settings": {key: getattr(self, key) for key in TOLD},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses a checkpoint whose rows belong to other images, and tells what else is not as it was.

        The contents are compared unless the source is, by its fingerprint, in the place and the state that it was in.

        Raises:
            InputError: when the digests of the keys, or of the contents, differ.
        """
        place = self.source.fingerprint[0]
        if state_dict["keys_digest"] != self._keys_digest:
            remedy = "the checkpoint's rows belong to other images; give the data that it was trained on"
            raise InputError("root", place, remedy)
        if state_dict["fingerprint"] != self._fingerprint_digest():
            rows, before = sampled_rows(self.num_images), state_dict["record_digests"].tolist()
            compared = zip(rows, before, self.record_digests, strict=True)
            changed = [row for row, was, now in compared if was and now and was != now]
            if changed:
                what = f"{len(changed)} of the {len(rows)} images that were compared are not those of the checkpoint, "
                what += f"{key_text(self.source, changed[0])} among them"
                raise InputError("root", place, f"{what}. Give the images of the run, or begin a new one")
        for key, was in state_dict["settings"].items():
            if getattr(self, key) != was:
                message = "%s is %s, and was %s until now: this is not the run any more that was never stopped"
                log.warning(message, TOLD[key], getattr(self, key), was)
        if state_dict["decoding"] != DECODING:
            message = "images are decoded a little differently since this checkpoint: of large JPEG files the pixels "
            log.info("%sdiffer by less than 0.5 of 255 on average", message)
