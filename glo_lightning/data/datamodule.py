"""The LightningDataModule, which brings the images from their source to the device."""

from __future__ import annotations

import functools
import itertools
import logging
import signal
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from glo_lightning.data.attributes import Attributes, find_attributes
from glo_lightning.data.digests import Digests
from glo_lightning.data.sampler import OneBatchSampler, ResumableLoader, RowBatchSampler
from glo_lightning.data.source import ConcatSource, HeadSource, MirroredSource, Source, channels_of
from glo_lightning.data.sources.find import open_source
from glo_lightning.data.store import CachedDataset, StreamingDataset
from glo_lightning.distributed import all_gather_object, raise_on_all_ranks
from glo_lightning.errors import InputError, OnError, check_at_least, check_choice
from glo_lightning.images import DECODING, Crop, ImageFormat, from_uint8
from glo_lightning.memory import fits_on_gpu

log = logging.getLogger(__name__)

VALIDATED = 16  # held-out images
LEAST = {"holdout": 0, "image_size": 1, "batch_size": 1, "num_workers": 0, "seed": 0}
CHOICES = {
    "cache_on_device": ("auto", True, False),
    "channels": ("auto", 1, 3),
    "crop": Crop,
    "on_invalid_image": OnError,
}
# settings that a resumed run may change, with their flags
SETTINGS = {"crop": "--data.crop", "batch_size": "--data.batch_size", "seed": "--seed_everything"}


def _ignore_signals(_: int) -> None:
    """Ignores signals in a worker; the training process answers them and ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class LSUNDataModule(LightningDataModule):
    """Batches of (images, index). Images are uint8 until they are on the device, then float32 in [-1, 1].

    Attributes:
        device_images: uint8 (N, C, H, W), the decoded images while they are kept on the accelerator, else None.

    Args:
        root: location of the images: the LSUN folder that holds ``bedroom_train_lmdb`` or a single other category, an
            LMDB folder, a folder of image files, of a torchvision dataset, of IDX or of parquet files, or a ``.npy`` or
            ``.npz`` file. The shipped faces if not given.
        num_samples: number of images to use, the first ones in the source's order; all if not given.
        holdout: number of images, the last ones, that are not trained on and own no row. The first 16 of them are
            encoded after each epoch for ``val/psnr``.
        source: kind of the root, where it is ambiguous: ``lmdb``, ``folder``, ``array``, ``idx``, ``huggingface``, the
            name of a torchvision dataset, or a class path, see ``Source``. Its own arguments follow as
            ``--data.source.ARGUMENT``; in Python as ``{"class_path": name, "init_args": {...}}``, or a ``Source``.
        categories: categories of LSUN, in this order, such as ``bedroom church_outdoor``.
        split: split to train on, of a source that has several.
        holdout_split: split that is held out, all of it or its first ``holdout`` images.
        download: whether a torchvision or Hugging Face dataset may be downloaded.
        image_size: H and W.
        channels: 1 for grey, 3 for RGB; ``auto`` keeps those of an array or a torchvision dataset, else takes 3.
        crop: ``center`` crops images to a square, ``none`` squeezes them into it.
        flip: adds the mirror image of every training image: image i owns rows 2i and 2i + 1. ``num_samples`` and
            ``holdout`` count images without their mirror images.
        batch_size: number of images in a step, over all devices.
        num_workers: number of processes that decode images where nothing is cached; 0 decodes in the training process.
        cache: decodes every image once, into the user's cache folder. Otherwise each is decoded in every epoch, and a
            damaged LMDB may kill the run without a message.
        cache_on_device: keeps the decoded images on the accelerator; ``auto`` does so on a GPU where they fit.
        on_invalid_image: ``raise``, or ``skip`` files and records that are not images. They keep their rows.
        seed: seed of the order of the images.

    Raises:
        InputError: for a value out of range; for the images themselves when they are first used.
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
        cache_on_device: bool | Literal["auto"] = "auto",
        on_invalid_image: OnError = "raise",
        seed: int = 0,
        source: str | dict[str, Any] | Source | None = None,
        categories: list[str] | None = None,
        split: str = "train",
        holdout_split: str | None = None,
        download: bool = False,
        channels: Literal["auto", 1, 3] = "auto",
        crop: Crop = "center",
        flip: bool = False,
    ):
        super().__init__()
        self.num_samples, self.holdout, self.split, self.holdout_split = num_samples, holdout, split, holdout_split
        self.image_size, self.channels, self.crop, self.flip = image_size, channels, crop, flip
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.cache, self.cache_on_device, self.on_invalid_image = cache, cache_on_device, on_invalid_image
        self._open = functools.partial(open_source, root, source, categories, download=download)
        self.device_images: Tensor | None = None
        for key, least in LEAST.items():
            check_at_least(key, getattr(self, key), least)
        for key, choices in CHOICES.items():
            check_choice(key, getattr(self, key), choices)
        if cache_on_device is True and not cache:
            raise InputError("cache_on_device", "true", "needs the cache. Give --data.cache true.")
        if holdout_split == split:
            raise InputError("holdout_split", split, "is the split to train on. Give another, or --data.holdout alone.")

    @functools.cached_property
    def source(self) -> Source:
        """The source of all rows, the held-out images last. A subclass with its own images may override it."""
        source = self._open(split=self.split)
        if self.num_samples is not None:
            source = HeadSource(source, self.num_samples)
        if self.holdout_split is not None:
            try:
                held_out = self._open(split=self.holdout_split)
            except InputError as error:
                if error.key != "split":
                    raise
                raise InputError("holdout_split", error.value, error.remedy) from error
            if self.holdout:
                held_out = HeadSource(held_out, self.holdout, "holdout")
            source, self.holdout = ConcatSource([source, held_out]), len(held_out)
        elif len(source) <= self.holdout:
            raise InputError("holdout", self.holdout, f"leaves none of {len(source)} images. Give fewer.")
        return MirroredSource(source, len(source) - self.holdout) if self.flip else source

    @functools.cached_property
    def dataset(self) -> StreamingDataset | CachedDataset:
        """The images by index. The first use decodes what is not in the cache."""
        dataset = CachedDataset if self.cache else StreamingDataset
        return dataset(self.source, self.image_format, self.on_invalid_image)

    @property
    def image_format(self) -> ImageFormat:
        """The size, channels and crop of every image."""
        return ImageFormat(self.image_size, self.num_channels, self.crop)

    @property
    def num_channels(self) -> int:
        """C, 1 or 3."""
        return channels_of(self.source) if self.channels == "auto" else self.channels

    @functools.cached_property
    def attributes(self) -> Attributes | None:
        """The labels by row, also of held-out images; None without labels. See ``read_labels`` for errors."""
        return find_attributes(self.source)

    @property
    def num_images(self) -> int:
        """N, the number of rows of the latent table."""
        return len(self.source) - self.holdout  # in this order: opening the source counts a held-out split

    @property
    def skipped(self) -> list[int]:
        """The training rows that are not images, as far as they are known: without the cache, those that were read."""
        return [row for row in self.dataset.skipped if row < self.num_images]

    def holdout_rows(self, num: int) -> list[int]:
        """Returns the indices in the dataset of the first ``num`` held-out images that can be read."""
        rows = range(self.num_images, len(self.source))
        if self.on_invalid_image == "raise":
            return list(rows[:num])
        found = itertools.chain.from_iterable(self.dataset[[row]][1].tolist() for row in rows)
        return list(itertools.islice(found, num))

    def setup(self, stage: str) -> None:
        """Decodes the images that are not cached, and checks that all processes have the same ones.

        The first process decodes, then the first one of each other node, then all open the cache. So nodes that share a
        cache folder never write to it at the same time; locks on network disks cannot be trusted.

        Raises:
            InputError: in all processes, when one of them cannot read its images or has different ones.
        """
        rank, world_size = self._rank_and_world_size()
        with raise_on_all_ranks():
            if world_size > 1 and self.on_invalid_image == "skip" and not self.cache:
                remedy = "cannot be used in several processes without the cache. Give --data.cache true."
                raise InputError("on_invalid_image", "skip", remedy)
            digest = self.digests.keys if world_size > 1 else None
        expected = all_gather_object(digest)[0]
        with raise_on_all_ranks():
            if digest != expected:
                remedy = f"process {rank} has other images there than the first. Give all nodes the same."
                raise InputError("root", self.source.fingerprint[0], remedy)
        turn = 0 if rank == 0 else 1 if self.trainer and self.trainer.local_rank == 0 else 2
        for present_turn in range(3):
            with raise_on_all_ranks():
                if turn == present_turn:
                    _ = self.dataset
        with raise_on_all_ranks():
            self._order(self.seed)  # refuses batches that are too small
            if stage == "fit" and rank == 0 and self.holdout and isinstance(self.dataset, CachedDataset):
                self.dataset.warn_of_copies(self.num_images)

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        """Batches of (images, index) in the order of the epoch; of the index alone where the device has the images."""
        dataset = self.dataset if self._images_on_device() is None else torch.arange(self.num_images)
        return self._loader(dataset, None if getattr(self.trainer, "overfit_batches", 0) > 0 else self.seed)

    def sequential_dataloader(self) -> DataLoader:
        """Batches of (uint8 images, index) that hold every row once, in order."""
        return self._loader(self.dataset, shared=False)

    def predict_dataloader(self) -> DataLoader:
        """As ``sequential_dataloader``; each of several processes has its share of every batch."""
        return self._loader(self.dataset, kind=DataLoader)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """One batch of the first 16 held-out images; nothing without a holdout."""
        rows = self.holdout_rows(VALIDATED)
        return DataLoader(self.dataset, batch_size=None, sampler=OneBatchSampler(rows)) if rows else []

    def _order(self, seed: int | None, shared: bool = True) -> RowBatchSampler:
        rank, world_size = self._rank_and_world_size() if shared else (0, 1)
        # without the cache, batches lose skipped rows as they are read, so that a resumed epoch has the same order
        skipped = self.dataset.skipped if self.cache else ()
        return RowBatchSampler(self.num_images, self.batch_size, seed, rank, world_size, skipped)

    def _loader(self, dataset: Any, seed: int | None = None, shared: bool = True, kind: Any = ResumableLoader) -> Any:
        """Makes a loader of batches in the order of a seed; ``shared`` by the processes, or the same in each."""
        workers = 0 if self.cache else self.num_workers  # reading a batch from the cache is one gather
        return kind(
            dataset,
            sampler=self._order(seed, shared),
            batch_size=None,  # the sampler makes the batches
            num_workers=workers,
            worker_init_fn=_ignore_signals,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=workers > 0,
        )

    def _images_on_device(self) -> Tensor | None:
        """Returns the decoded images on the trainer's device, after copying them there once; None where they stay."""
        if not self.trainer or not isinstance(self.dataset, CachedDataset):
            return None
        device, images = self.trainer.strategy.root_device, self.dataset.images
        if self.device_images is None or self.device_images.device != device:
            wanted = self.cache_on_device
            is_kept = fits_on_gpu(images, device, self.batch_size) if wanted == "auto" else wanted
            self.device_images = images.to(device, copy=True) if is_kept else None
        return self.device_images

    def teardown(self, stage: str) -> None:
        self.device_images = None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Makes (float32 images in [-1, 1], index) of a batch on the device."""
        if self.device_images is not None and isinstance(batch, Tensor):
            batch = self.device_images[batch], batch
        is_batch = isinstance(batch, tuple | list)  # to_onnx and to_torchscript call this with codes
        return (from_uint8(batch[0]), batch[1]) if is_batch else batch

    @functools.cached_property
    def digests(self) -> Digests:
        """The digests of the training images."""
        return Digests(self.source, self.num_images)

    def state_dict(self) -> dict[str, Any]:
        """Returns what ties a checkpoint to its images, and the labels of all images."""
        return self.digests.state() | {
            "labels": None if self.attributes is None else self.attributes.state(),
            "skipped": torch.tensor(self.skipped, dtype=torch.long),
            "decoding": DECODING,
            "settings": {key: getattr(self, key) for key in SETTINGS},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses a checkpoint whose rows belong to other images, see ``Digests``, and warns of changed settings."""
        self.digests.check(state_dict)
        if not self.cache:
            self.dataset.add_skipped(state_dict["skipped"].tolist(), [])  # type: ignore[union-attr]
        for key, was in state_dict["settings"].items():
            if getattr(self, key) != was:
                message = "%s is %s and was %s before: the run is no longer identical to an uninterrupted one"
                log.warning(message, SETTINGS[key], getattr(self, key), was)
        if state_dict["decoding"] != DECODING:
            log.info("images are decoded differently since this checkpoint: large JPEGs, 12, 16 and signed bits")
