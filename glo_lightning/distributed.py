"""What the processes of one run do together: agree, meet a fault in all at once, begin with the same codes."""

from __future__ import annotations

import contextlib
import datetime
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from glo_lightning.errors import InputError

EXPECTED = (InputError, OSError, FloatingPointError)  # errors that a command tells of in one line


def several() -> bool:
    """Whether this process is one of several that have met."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def is_first() -> bool:
    return not several() or distributed.get_rank() == 0


@functools.cache
def _hosts(world: object) -> Any:
    """The same processes in a group whose messages are the CPU's: no device waits, and a long decoding may."""
    return distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=1))


def meet() -> None:
    """Connects the processes, all of which call this: from then on each notices when another has ended."""
    if several():
        _hosts(distributed.group.WORLD)


def largest(*values: float) -> list[float]:
    """For each value the largest of all processes, which all have to call this; the values where there is one alone."""
    if not several():
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=_hosts(distributed.group.WORLD))
    return tensor.tolist()


def everyones(value: Any) -> list[Any]:
    """The value of every process, by rank; all have to call this."""
    if not several():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value, group=_hosts(distributed.group.WORLD))
    return values


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block that all processes enter, and in which they do not wait for each other: an error in one is raised in all.

    Raises:
        InputError, OSError, FloatingPointError: of the first process that has one; ``is_agreed`` is true of it.
    """
    error: BaseException | None = None
    try:
        yield
    except EXPECTED as caught:
        if not several():
            raise
        error = caught
    if several() and largest(error is not None)[0]:
        raise agreed(next(other for other in everyones(error) if other is not None))


def agreed(error: BaseException) -> BaseException:
    """The error, marked as one that every process raises now."""
    error.agreed = True  # type: ignore[attr-defined]
    return error


def is_agreed(error: BaseException) -> bool:
    return getattr(error, "agreed", False)


def is_loss_of_another(error: BaseException) -> bool:
    """Whether a message to or from another process has failed: that one has ended."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in names or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def broadcast_from_first(tensor: Tensor) -> None:
    """Writes the first process's values into the tensor in all."""
    if several():
        distributed.broadcast(tensor, src=0)


def weight_of(parts: Sequence[int] | None) -> float:
    """What this process's mean weighs in a plain mean over the processes, so that every image weighs the same.

    Args:
        parts: how many images of a batch each process has; None says as many as all others.
    """
    return 1.0 if parts is None else parts[distributed.get_rank()] * len(parts) / sum(parts)


class Now:
    """When it is time to agree again: in the same steps in all processes, and at most about a second apart."""

    def __init__(self) -> None:
        self.steps = self.left = 1
        self.since = time.monotonic()

    def is_it(self) -> bool:
        """Counts a step; always true where there is one process alone."""
        self.left -= 1
        return self.left <= 0 or not several()

    def agree(self, *values: float) -> list[float]:
        """As ``largest``; sets the number of steps until the next time by the slowest process."""
        if not several():
            return list(values)
        *values_of_all, seconds = largest(*values, time.monotonic() - self.since)
        # half a second, and at most twice as many steps as before: a step may take twice as long as those that were
        self.steps = self.left = max(1, min(2 * self.steps, int(self.steps * 0.5 / max(seconds, 1e-9))))
        self.since = time.monotonic()
        return values_of_all
