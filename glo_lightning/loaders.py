"""Batches from an LSUNDataModule or any DataLoader of (image, index): what they must be, and in the order of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from glo_lightning.errors import InputError
from glo_lightning.images import to_uint8

BATCH = 256
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def sequential_batches(trainer: Trainer) -> Batches:
    """Returns what iterates over (uint8 images (b, C, H, W), rows (b,)) in the order of rows.

    An LSUNDataModule has such a loader. Of any other training DataLoader, the dataset is read from its first item on:
    item i must be (image in [-1, 1], i).

    Raises:
        InputError: for a dataset that cannot be read in order, or whose items have other indices.
    """
    loader = getattr(getattr(trainer, "datamodule", None), "sequential_dataloader", None)
    if loader is not None:
        return loader
    trainer.fit_loop.setup_data()
    training = trainer.train_dataloader
    dataset = getattr(training, "dataset", None)
    has_items = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not isinstance(training, DataLoader) or training.batch_size is None or not has_items:
        remedy = "needs an LSUNDataModule, or a DataLoader with a batch_size whose dataset has a length and items."
        raise InputError("init", "pca", f"{remedy} Give such a one, or init random.")
    return lambda: _in_order(dataset, training.collate_fn)


def check_batch(batch: Any, num_images: int, channels: int, image_size: int) -> None:
    """Checks a training batch: float images (B, C, H, W) in [-1, 1], and their rows (B,).

    Raises:
        InputError: for anything else, of which some would be trained on without an error.
    """
    if not isinstance(batch, tuple | list) or [getattr(part, "ndim", None) for part in batch] != [4, 1]:
        raise InputError("batch", type(batch).__name__, "is not (images (B, C, H, W), rows (B,)). Give such batches")
    images, rows = batch
    for key, own, size in (("channels", channels, images.shape[1]), ("image_size", image_size, images.shape[2])):
        if own != size:
            raise InputError(key, own, f"the images have {size}. Give that to the model, or other images")
    low, high, last = (float(value) for value in (images.min(), images.max(), rows.max()))
    if not images.is_floating_point() or not -1.01 <= low <= high <= 1.01:
        kind = str(images.dtype).removeprefix("torch.")
        raise InputError("images", f"{kind} from {low:g} to {high:g}", "are not floats in [-1, 1]. Scale them so")
    if last >= num_images:
        raise InputError("num_images", num_images, f"a batch has row {last:.0f}. Give the model a row for each image")


def _in_order(dataset: Any, collate: Callable) -> Iterator[tuple[Tensor, Tensor]]:
    first = 0
    for images, index in DataLoader(dataset, batch_size=BATCH, collate_fn=collate):
        rows = torch.as_tensor(index)
        if not torch.equal(rows.cpu(), torch.arange(first, first + len(images))):
            got = f"items {first} to {first + len(images) - 1} of the dataset have the indices {rows.tolist()[:3]}..."
            raise InputError("init", "pca", f"{got} Item i must be (image, i); or give init random.")
        yield to_uint8(images), rows
        first += len(images)
