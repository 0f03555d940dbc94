"""Damage to files, and what a reader makes of it."""

import contextlib
import faulthandler
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np

from glo_lightning.errors import InputError
from glo_lightning.images import NotAnImageError


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Changes some bytes, half of them where there are no zeros, and often the header; cuts or empties some files."""
    changed = np.frombuffer(content, np.uint8).copy()
    places = random.integers(0, len(changed), random.integers(1, 12))
    filled = np.flatnonzero(changed)
    if len(filled):
        places[::2] = random.choice(filled, len(places[::2]))
    changed[places] = random.integers(0, 256, len(places))
    if random.random() < 0.5:
        start = random.integers(0, min(64, len(changed)))
        changed[start : start + 4] = random.integers(0, 256, len(changed[start : start + 4]))
    end = random.choice([len(changed), random.integers(0, len(changed)), 0], p=[0.7, 0.25, 0.05])
    return changed[:end].tobytes()


def outcomes(content: bytes, read: Callable[[bytes], object], times: int) -> set:
    """What ``read`` returns for damaged content, and of its error messages the numbers of lines."""
    return {_outcome(damaged(content, np.random.default_rng(seed)), read) for seed in range(times)}


def _outcome(content: bytes, read: Callable[[bytes], object]) -> object:
    try:
        return read(content)
    except (InputError, NotAnImageError) as error:
        return len(str(error).splitlines())


def outcomes_in_children(content: bytes, read: Callable[[bytes], object], times: int) -> set:
    """As ``outcomes``, where ``read`` may crash its process: then the outcome is minus the signal."""
    context, found, done = get_context("fork"), set(), 0
    while done < times:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_send_outcomes, args=(sender, content, read, done, times))
        child.start()
        sender.close()  # the child's is the last one, so that the pipe ends with it
        with contextlib.suppress(EOFError):
            while True:
                found.add(receiver.recv())
                done += 1
        child.join()
        found |= {child.exitcode} - {0}
        done += 1  # the one that crashed it
    return found


def _send_outcomes(sender: Connection, content: bytes, read: Callable[[bytes], object], first: int, times: int) -> None:
    faulthandler.disable()  # it would report the crash
    for seed in range(first, times):
        sender.send(_outcome(damaged(content, np.random.default_rng(seed)), read))
