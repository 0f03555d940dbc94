"""The order of the data: which rows make a batch, and how an epoch is resumed in its middle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from glo_lightning.errors import InputError


def rows_without(skipped: Sequence[int], num_rows: int) -> np.ndarray:
    """Returns the rows from 0 to ``num_rows`` - 1 that are not skipped."""
    return np.setdiff1d(np.arange(num_rows), np.asarray(skipped, dtype=int))


class RowBatchSampler(DistributedSampler[list[int]], SequentialSampler):
    """Yields every row once an epoch, in ``ceil(N / B)`` batches whose sizes differ by at most one.

    The order depends on seed and epoch only. Each process takes its share of every batch. As the class is a
    DistributedSampler, Lightning does not divide the batches again; as it is a SequentialSampler, ``overfit_batches``
    does not replace it by one of single rows.

    Attributes:
        first: number of the batch that the next iteration begins with; not 0 when an epoch is resumed in its middle.

    Args:
        num_images: N.
        batch_size: B, over all processes.
        seed: seed of the order; None keeps the rows in order.
        skipped: rows that are in no batch.

    Raises:
        InputError: for batches of fewer images than there are processes.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        skipped: Sequence[int] = (),
    ):
        self.rows = rows_without(skipped, num_images)
        super().__init__(self.rows, world_size, rank, shuffle=seed is not None, seed=seed or 0)  # type: ignore[arg-type]
        self.batch_size, self.first = batch_size, 0
        least = len(self.rows) // max(len(self), 1)
        if least < world_size > 1:
            remedy = f"makes batches of {least} images, fewer than the {world_size} processes. Give a larger one."
            raise InputError("batch_size", batch_size, remedy)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        rows = self.rows
        if self.shuffle:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(rows)
        for batch in np.array_split(rows, len(self))[self.first :]:
            yield np.array_split(batch, self.num_replicas)[self.rank].tolist()

    def batch_sizes_by_rank(self, batch: int) -> list[int]:
        """Returns the number of images of a batch that each process has, by rank."""
        size, remainder = divmod(len(self.rows), len(self))
        size, remainder = divmod(size + (batch < remainder), self.num_replicas)
        return [size + (rank < remainder) for rank in range(self.num_replicas)]


class OneBatchSampler(DistributedSampler[list[int]], SequentialSampler):
    """Yields these rows as one batch, on every rank; of these kinds for Lightning, as RowBatchSampler is."""

    def __init__(self, rows: list[int]):
        self.rows = rows

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        yield self.rows


class ResumableLoader(DataLoader):
    """A DataLoader whose epoch can be resumed in its middle: its state is the number of batches that it has yielded.

    Batches that workers have prefetched do not count. Lightning saves and loads the state.
    """

    sampler: RowBatchSampler
    yielded = resume_at = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # a generator, so that workers start only after the sampler knows its epoch
        self.yielded = self.sampler.first = self.resume_at
        self.resume_at = 0
        batches: Iterator[Any] = super().__iter__()
        # while a GPU computes, the next batch is read and pinned
        batches = _read_ahead(batches) if self.pin_memory and not self.num_workers else batches
        note_skipped = getattr(self.dataset, "add_skipped", None)  # which a worker cannot tell this process
        for rows, batch in zip(itertools.repeat(()) if note_skipped is None else self.sampler, batches, strict=False):
            self.yielded += 1
            if note_skipped is not None:
                note_skipped(rows, batch[1].tolist())
                if not len(batch[1]):  # all of its images are skipped
                    continue
            yield batch

    def _settings(self) -> dict[str, Any]:
        return {"seed": self.sampler.seed, "batch_size": self.sampler.batch_size, "num_samples": len(self.sampler.rows)}

    def state_dict(self) -> dict[str, Any]:
        return {"yielded": self.yielded, **self._settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begins the next iteration where the saved one stopped.

        Raises:
            InputError: when that is in the middle of an epoch and this loader has another order.
        """
        self.yielded = self.resume_at = state_dict["yielded"]
        for key, given in self._settings().items():
            if self.resume_at and state_dict[key] != given:
                remedy = f"the checkpoint is in the middle of an epoch that began with {state_dict[key]}. Give that."
                raise InputError(key, given, remedy)


def _read_ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """Yields the same batches, each read in a thread while the one before is in use."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, batches, end)
        while (batch := upcoming.result()) is not end:
            upcoming = thread.submit(next, batches, end)
            yield batch
