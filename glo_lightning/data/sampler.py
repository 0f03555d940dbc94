"""The order of the data: which rows make a batch, and how an epoch goes on in its middle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, DistributedSampler

from glo_lightning.errors import InputError


class RowBatchSampler(DistributedSampler[list[int]]):
    """Every row once an epoch, in ``ceil(N / B)`` batches whose sizes differ by at most one.

    The order is a function of (seed, epoch) alone. With several processes each takes its part of every batch; being a
    DistributedSampler, it is not shared out once more by Lightning.

    Attributes:
        first: the batch that the next iteration begins with; 0 unless an epoch is gone on with in its middle.

    Args:
        num_images: N.
        batch_size: B, over all processes.
        skipped: rows that are in no batch.
        seed: None keeps the rows in order.
        rank, world_size: this process among all.

    Raises:
        InputError: when a batch has fewer images than there are processes.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        skipped: Sequence[int] | np.ndarray = (),
    ):
        self.rows = np.setdiff1d(np.arange(num_images), np.asarray(skipped, dtype=int))
        super().__init__(self.rows, world_size, rank, shuffle=seed is not None, seed=seed or 0)  # type: ignore[arg-type]
        self.batch_size, self.first = batch_size, 0
        least = len(self.rows) // max(len(self), 1)
        if least < world_size > 1:
            remedy = f"makes batches of {least} images, fewer than the {world_size} processes; give a larger one"
            raise InputError("batch_size", batch_size, remedy)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order; Lightning calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.rows
        if self.shuffle:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(rows)
        for batch in np.array_split(rows, len(self))[self.first :]:
            yield np.array_split(batch, self.num_replicas)[self.rank].tolist()

    def batch_sizes_by_rank(self, batch: int) -> list[int]:
        """How many images each process has of that batch of an epoch, by rank."""
        size, further = divmod(len(self.rows), len(self))
        size, further = divmod(size + (batch < further), self.num_replicas)
        return [size + (rank < further) for rank in range(self.num_replicas)]


class ResumableLoader(DataLoader):
    """A DataLoader whose epoch can be gone on with in its middle: its state is the number of batches it has yielded.

    Workers fetch ahead; what they have fetched and nobody has trained on does not count. Lightning saves and loads
    the state.
    """

    yielded = resume_at = 0

    @property
    def order(self) -> RowBatchSampler:
        return cast(RowBatchSampler, self.sampler)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: the first batch is asked for, and workers begin, only after the sampler knows its epoch.
        self.yielded = self.order.first = self.resume_at
        self.resume_at = 0
        batches = super().__iter__()
        # where batches go to a GPU, the next one is read and pinned while it computes
        for batch in _read_ahead(batches) if self.pin_memory and not self.num_workers else batches:
            self.yielded += 1
            yield batch

    def batch_sizes_by_rank(self, batch: int) -> list[int]:
        """As RowBatchSampler's."""
        return self.order.batch_sizes_by_rank(batch)

    def _made_by(self) -> dict[str, Any]:
        order = self.order
        return {"seed": order.seed, "batch_size": order.batch_size, "num_samples": len(order.rows)}

    def state_dict(self) -> dict[str, Any]:
        return {"yielded": self.yielded, **self._made_by()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begins the next iteration where the saved one was.

        Raises:
            InputError: when that is in the middle of an order that this loader does not have.
        """
        self.yielded = self.resume_at = state_dict["yielded"]
        for key, given in self._made_by().items():
            if self.resume_at and state_dict[key] != given:
                remedy = f"the checkpoint is in the middle of an epoch that was begun with {state_dict[key]}; give that"
                raise InputError(key, given, remedy)


def _read_ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, each asked for in a thread of its own while the one before is in use."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, end)
        while (batch := following.result()) is not end:
            following = thread.submit(next, batches, end)
            yield batch
