"""Several processes of one run: agreement, errors on all ranks, and the rows and weights of a batch that they share."""

from __future__ import annotations

import contextlib
import datetime
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from glo_lightning.errors import InputError

EXPECTED = (InputError, OSError, FloatingPointError)  # errors that a command reports in one line


def is_distributed() -> bool:
    """Whether this process belongs to a group of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    """Whether this process has rank 0."""
    return not is_distributed() or dist.get_rank() == 0


# ------------------------------------------------------------------------------------------------------------ messages


@functools.cache
def _cpu_group(world: object) -> Any:
    """The same ranks in a gloo group, so that messages never block the GPU. The long timeout covers decoding."""
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(days=1))


def init_cpu_group() -> None:
    """Connects all ranks, each of which calls this. From then on each notices when another has ended."""
    if is_distributed():
        _cpu_group(dist.group.WORLD)


def all_reduce_max(*values: float) -> list[float]:
    """The maximum of each value over all ranks; all ranks call this."""
    if not is_distributed():
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX, group=_cpu_group(dist.group.WORLD))
    return tensor.tolist()


def all_gather_object(value: Any) -> list[Any]:
    """The value of every rank, by rank; all ranks call this."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_cpu_group(dist.group.WORLD))
    return values


def broadcast_from_first(tensor: Tensor) -> None:
    """Overwrites the tensor with that of rank 0."""
    if is_distributed():
        dist.broadcast(tensor, src=0)


class SyncTimer:
    """Decides when the ranks exchange messages: all in the same step, and at most about a second apart."""

    def __init__(self) -> None:
        self.interval = self.left = 1  # steps
        self.since = time.monotonic()

    def due(self) -> bool:
        """Counts a step. A process alone is always due."""
        self.left -= 1
        return self.left <= 0 or not is_distributed()

    def sync(self, *values: float) -> list[float]:
        """``all_reduce_max``, which also sets the number of steps until the next exchange by the slowest rank."""
        if not is_distributed():
            return list(values)
        *maxima, seconds = all_reduce_max(*values, time.monotonic() - self.since)
        # half a second, and at most twice as many steps as before: the next steps may take twice as long
        self.interval = self.left = max(1, min(2 * self.interval, int(self.interval * 0.5 / max(seconds, 1e-9))))
        self.since = time.monotonic()
        return maxima


# -------------------------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """A block that all ranks enter and in which they do not wait for each other: an error in one is raised in all.

    Raises:
        InputError, OSError, FloatingPointError: of the first rank that has one; ``is_collective`` is true of it.
    """
    error: BaseException | None = None
    try:
        yield
    except EXPECTED as caught:
        if not is_distributed():
            raise
        error = caught
    if is_distributed() and all_reduce_max(error is not None)[0]:
        raise mark_collective(next(other for other in all_gather_object(error) if other is not None))


def mark_collective(error: BaseException) -> BaseException:
    """Marks an error that every rank raises at this point."""
    error.is_collective = True  # type: ignore[attr-defined]
    return error


def is_collective(error: BaseException) -> bool:
    """Whether every rank raises this error."""
    return getattr(error, "is_collective", False)


def is_peer_failure(error: BaseException) -> bool:
    """Whether a message to or from another rank has failed, since its process has ended."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in names or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


# ---------------------------------------------------------------------------------------------------- a shared batch


def rows_by_rank(loader: object, batches: Iterable[int]) -> list[int] | None:
    """How many images of these batches each rank has; None in one process, and where the loader cannot say.

    LSUNDataModule's loader can, by its sampler's ``batch_sizes_by_rank(batch)``. Other loaders must give all ranks
    equally many, as torch's DistributedSampler does.
    """
    sizes = getattr(getattr(loader, "sampler", None), "batch_sizes_by_rank", None) if is_distributed() else None
    return sizes and [sum(parts) for parts in zip(*map(sizes, batches), strict=True)]


def rank_weight(rows: Sequence[int] | None) -> float:
    """The weight of this rank's mean loss in DDP's plain mean over ranks, so that every image weighs the same.

    ``rows`` are the images of a batch on each rank; None where all have equally many.
    """
    return 1.0 if rows is None else rows[dist.get_rank()] * len(rows) / sum(rows)


def gather_rows(gradient: Tensor, rows: Sequence[int] | None = None) -> Tensor:
    """Joins the sparse gradients (N, D) of all ranks, which have each row at most once; one process keeps its own.

    DDP would average them, and NCCL has no sparse all-reduce. If ``rows``, the number on each rank, is None, the ranks
    ask each other, for which a GPU has to wait.
    """
    if not is_distributed():
        return gradient
    index, values = gradient._indices()[0], gradient._values()
    if rows is None:
        number = torch.tensor([len(index)], device=index.device)
        rows = torch.cat(_all_gather(number, [1] * dist.get_world_size())).tolist()
    padding = max(rows) - len(index)  # a collective needs equal shapes
    all_indices = torch.cat(_all_gather(pad(index, (0, padding)), rows))
    all_values = torch.cat(_all_gather(pad(values, (0, 0, 0, padding)), rows))
    return torch.sparse_coo_tensor(all_indices[None], all_values, gradient.shape, check_invariants=False)


def _all_gather(tensor: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """The tensor of every rank, by rank, without its padding."""
    gathered = [torch.empty_like(tensor) for _ in lengths]
    dist.all_gather(gathered, tensor.contiguous())
    return [other[:length] for other, length in zip(gathered, lengths, strict=True)]
