"""How a training ends before its end: signals, exit statuses, and errors in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentError
from pytorch_lightning import Callback, LightningModule, Trainer

from glo_lightning.distributed import is_collective, is_distributed, is_first, is_peer_failure, mark_collective
from glo_lightning.errors import InputError
from glo_lightning.lightning_internals import child_processes
from glo_lightning.runs.folder import RunFolder
from glo_lightning.training.arguments import flag_of, one_line
from glo_lightning.training.launch import Launch, is_child

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
NOTHING_WRITTEN = "stopped before the first step; nothing was written"


class EndedEarly(SystemExit):
    """A signal that came before the training."""


def leave(number: int, frame: object) -> NoReturn:
    """Ends the run; the answer to a signal until Checkpoints has one."""
    raise SystemExit(128 + number)


def leave_early(number: int, frame: object) -> NoReturn:
    """As ``leave``, before the training."""
    raise EndedEarly(128 + number)


@contextlib.contextmanager
def signals_answered(numbers: Iterable[int], answer: Any) -> Iterator[None]:
    """Answers these signals by ``answer`` in the block; after it all of SIGNALS are answered as before it."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in numbers:
        signal.signal(number, answer)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(line: str, status: int) -> NoReturn:
    """Leaves with one line, which of several processes that have met the first one says."""
    if is_distributed() and not is_first():
        # Lightning's launcher takes any other status of one that it has started for a crash, and kills the first.
        raise mark_collective(SystemExit(0 if is_child() else status))
    if not Launch.found().is_first:
        time.sleep(3)  # the first is likely to say the same, and then the launcher ends this one
    sys.stderr.write(f"\n{line}\n" if status == 130 else f"{line}\n")
    raise mark_collective(SystemExit(status))


def error_line(error: BaseException, trainer: Trainer | None = None) -> tuple[str, int] | None:
    """The line that tells of an error, and the exit status; None for a bug.

    Args:
        error: what ended the program.
        trainer: of the run, once there is one.
    """
    if isinstance(error, KeyboardInterrupt):
        return NOTHING_WRITTEN, 130
    if isinstance(error, ArgumentError):
        return one_line(str(error)), 2
    if isinstance(error, InputError):
        return f"{flag_of(error.key)} {error.value}: {error.remedy}", 2
    if isinstance(error, FloatingPointError):
        remedy = "lower --model.generator_lr or --model.latent_lr and go on with --resume, "
        remedy += "or give --on_nonfinite_loss skip"
        return f"{error}; {remedy}", 1
    if isinstance(error, torch.OutOfMemoryError):
        return _memory_line(trainer) if trainer else str(error), 1
    if isinstance(error, OSError):
        return _disk_line(error, trainer), 1
    if is_peer_failure(error):
        return "lost another process, which has ended or been killed; it says why, or its launcher does", 1
    return None


def _memory_line(trainer: Trainer) -> str:
    """What takes the device's memory, and what to do."""
    data, table = trainer.datamodule, trainer.lightning_module.latents.weight  # type: ignore[attr-defined, union-attr]
    images = f"{data.resident_bytes / 1e9:.1f} GB of images" if data.resident_bytes else "no images"
    taken = f"it holds {images} and a table of {table.nbytes / 1e9:.1f} GB"  # type: ignore[operator]
    remedy = "lower it, or --model.width, or give --data.device_resident false"
    return f"--data.batch_size {data.batch_size}: the device is out of memory; {taken}; {remedy}"


def _disk_line(error: OSError, trainer: Trainer | None) -> str:
    where, remedy = error.filename or "input", "make room, or give another --output"
    if trainer is not None:
        folder = RunFolder(trainer.default_root_dir)
        where = error.filename or folder.path
        if folder.config.exists():
            kept = "the last checkpoint is as it was; " if folder.last.exists() else ""
            remedy = f"{kept}make room and go on with --resume {folder.path}"
    return f"{where}: {error.strerror or error}; {remedy}"


class AbortOnError(Callback):
    """Ends a process whose error the others do not share before Lightning waits for them to clean up.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size > 1 and not is_collective(exception):
            abort_rank(trainer, self.folder, exception)


def abort_rank(trainer: Trainer, folder: RunFolder, error: BaseException) -> NoReturn:
    """Ends this process in the middle of whatever the others wait for, and those that Lightning started from it.

    Nothing is waited for: an interpreter that ends in good order would wait for messages that never come. Closing its
    connections ends the others: torch tells them, or their launchers do.
    """
    status = _report(trainer, folder, error)
    for logger in trainer.loggers:
        logger.finalize("failed")
    for child in child_processes(trainer):
        child.kill()
    os._exit(status)


def _report(trainer: Trainer, folder: RunFolder, error: BaseException) -> int:
    """Says what has ended this process in the middle of a run of several; returns the exit status."""
    if not folder.config.exists():
        folder.abandon()
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        goes_on = f"go on with --resume {folder.path}" if folder.config.exists() else "nothing was written"
        said: tuple[str, int] | None = f"stopped; {goes_on}", int(getattr(error, "code", 130) or 0)
    else:
        said = error_line(error, trainer)
    if said is None:
        traceback.print_exception(error)
        return 1
    sys.stderr.write(f"process {trainer.global_rank}: {said[0]}\n")
    return said[1]
