"""The training images in the order of their rows, from an LSUNDataModule or any DataLoader of (image, index)."""

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


def _in_order(dataset: Any, collate: Callable) -> Iterator[tuple[Tensor, Tensor]]:
    first = 0
    for images, index in DataLoader(dataset, batch_size=BATCH, collate_fn=collate):
        rows = torch.as_tensor(index)
        if not torch.equal(rows.cpu(), torch.arange(first, first + len(images))):
            got = f"items {first} to {first + len(images) - 1} of the dataset have the indices {rows.tolist()[:3]}..."
            raise InputError("init", "pca", f"{got} Item i must be (image, i); or give init random.")
        yield to_uint8(images), rows
        first += len(images)
