"""The LightningDataModule: the way of the images from their source to the device."""

from __future__ import annotations

import functools
import itertools
import logging
import signal
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glo_lightning.data.attributes import Attributes
from glo_lightning.data.lmdb_source import LMDBSource
from glo_lightning.data.sampler import ResumableLoader, RowBatchSampler
from glo_lightning.data.source import Source, StreamedImages, keys_digest
from glo_lightning.data.store import StoredImages
from glo_lightning.errors import InputError, OnError, check_at_least, check_choice
from glo_lightning.images import from_uint8
from glo_lightning.processes import everyones, together

log = logging.getLogger(__name__)

# What a step needs on the device beyond images and model: kernels and their workspace; for each byte of its images
# the default generator's activations, their gradients and the pyramids.
STEP_MEMORY, BATCH_MEMORY = 2 << 30, 256


def _ignore_signals(_: int) -> None:
    """In a worker: a signal to the whole process group is the training process's, which ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class _Rows(Dataset[Tensor]):
    """The index alone, where the images are on the device already."""

    def __getitem__(self, index: Sequence[int]) -> Tensor:
        return torch.tensor(index)


class LSUNDataModule(LightningDataModule):
    """Batches of (images, index) for training; images are uint8 until they are on the device, then in [-1, 1].

    Args:
        root: the LSUN folder that holds ``bedroom_train_lmdb``, or an LMDB folder; the shipped faces if not given.
        num_samples: takes the first so many images in key order; all if not given.
        holdout: keeps the last so many of these out of training: they own no row and never reach the PCA. 16 of them
            are encoded after each epoch for ``val/psnr``.
        image_size: H and W to resize and crop to.
        batch_size: images in a step, over all devices.
        num_workers: processes that decode when nothing is cached; 0 decodes in the training process.
        cache: decodes every image once, into a store in the user's cache folder; otherwise each is decoded from the
            LMDB whenever it is wanted.
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
        self._resident: Tensor | None = None

    @functools.cached_property
    def source(self) -> Source:
        """Where the images come from; a subclass with images of its own overrides it."""
        return LMDBSource(self.root, self.image_size, self.num_samples)

    @functools.cached_property
    def dataset(self) -> StreamedImages | StoredImages:
        """The images by index; the first use decodes what is not in the store yet."""
        images = StoredImages if self.cache else StreamedImages
        return images(self.source, self.image_size, self.on_bad_record)

    @property
    def attributes(self) -> Attributes | None:
        """What is known of the images by row, the held-out ones among them; None where nothing is.

        Raises:
            InputError: when it belongs to other images.
        """
        return getattr(self.source, "attributes", None)

    @property
    def num_images(self) -> int:
        """N, the number of rows that the latent table needs.

        Raises:
            InputError: when no image is left besides those held out.
        """
        number = len(self.source) - self.holdout
        if number < 1:
            raise InputError("holdout", self.holdout, f"leaves none of {len(self.source)} images; give a smaller one")
        return number

    def setup(self, stage: str) -> None:
        """Decodes what is not in the store yet: in the first process, then in the first of each other node, if need be.

        So nodes that share a cache folder never write into it at once, whatever locks are worth on their disk.

        Raises:
            InputError: in all processes, when one cannot read its images, or has others than the first.
        """
        rank, world_size = self._place()
        with together():
            if world_size > 1 and self.on_bad_record == "skip" and not self.cache:
                remedy = "makes parts of unknown size in several processes; give --data.cache true, which knows them"
                raise InputError("on_bad_record", "skip", remedy)
            digest = keys_digest(self.source, self.num_images) if world_size > 1 else None
        firsts = everyones(digest)[0]
        with together():
            if digest != firsts:
                remedy = f"process {rank} has other images there than the first process; give all nodes the same"
                raise InputError("root", self.source.fingerprint[0], remedy)
        # the nodes' first processes in turn, and then all: what one has decoded the others find
        turn = 0 if rank == 0 else 1 if self.trainer and self.trainer.local_rank == 0 else 2
        for now in range(3):
            with together():
                if turn == now:
                    _ = self.dataset
        with together():
            self._order(self.seed, rank, world_size)

    def _place(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        resident = self._resident_images() is not None
        return self._loader(_Rows() if resident else self.dataset, self.seed, *self._place())

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
        rows = (row for row in range(self.num_images, len(self.source)) if row not in skipped)
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
        needed = images.nbytes + STEP_MEMORY + BATCH_MEMORY * self.batch_size * images[0].nbytes
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
            return from_uint8(self._resident[batch]), batch
        images, index = batch
        return from_uint8(images), index

    def state_dict(self) -> dict[str, Any]:
        return {"keys_digest": keys_digest(self.source, self.num_images)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses a checkpoint whose rows belong to other images.

        Raises:
            InputError: when the digests of the keys differ.
        """
        if state_dict["keys_digest"] != keys_digest(self.source, self.num_images):
            remedy = "the checkpoint's rows belong to other images; give the data that it was trained on"
            raise InputError("root", self.source.fingerprint[0], remedy)
