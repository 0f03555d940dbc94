"""How a training is stopped: signals, exit statuses, and errors in one line."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentError
from lightning_fabric.utilities.spike import TrainingSpikeException
from pytorch_lightning import Callback, LightningModule, Trainer

from glo_lightning.distributed import is_collective, is_distributed, is_first, is_peer_failure, mark_collective
from glo_lightning.errors import InputError
from glo_lightning.files import disk_remedy
from glo_lightning.lightning_internals import child_processes
from glo_lightning.runs.checkpoints import SIGNALS, set_handler
from glo_lightning.runs.folder import RunFolder
from glo_lightning.training.flags import flag_of, one_line
from glo_lightning.training.launch import Launch, is_child

SIGNALS_BUT_INTERRUPT = tuple(number for number in SIGNALS if number != signal.SIGINT)
REPEATED = "repeated signal"  # the name of a thread
NOTHING_WRITTEN = "Stopped before the first step. Nothing was written."


class SignalExit(SystemExit):
    """Exits after a signal, with status 128 + its number."""


class EarlySignal(SignalExit):
    """Exits after a signal that came before the fit."""


# Errors that error_line may describe.
REPORTED: tuple[type[BaseException], ...] = (EarlySignal, KeyboardInterrupt, ArgumentError, InputError)
REPORTED += (ArithmeticError, MemoryError, OSError, RuntimeError)


def exit_on_signal(number: int, frame: object) -> NoReturn:
    """Handles a signal during the fit, until Checkpoints does."""
    raise SignalExit(128 + number)


def exit_before_fit(number: int, frame: object) -> NoReturn:
    """Handles a signal before the fit."""
    raise EarlySignal(128 + number)


@contextlib.contextmanager
def handle_signals(numbers: Iterable[int], handler: Any) -> Iterator[None]:
    """Handles these signals by ``handler`` in the block, after which all of SIGNALS have their old handlers again."""
    for thread in threading.enumerate():
        if thread.name == REPEATED:
            thread.join()  # the handlers of before answer it
    before = {number: signal.getsignal(number) for number in SIGNALS}
    report, sys.unraisablehook = sys.unraisablehook, functools.partial(_signal_again, sys.unraisablehook)
    set_handler(numbers, handler)
    try:
        yield
    finally:
        sys.unraisablehook = report
        for number, old in before.items():
            signal.signal(number, old)


def _signal_again(report: Callable[[Any], object], ignored: Any) -> None:
    """Repeats a signal whose handler's exception Python has ignored; reports any other ignored exception.

    Python ignores exceptions in callbacks of ``os.fork``, of which logging has some, and in ``__del__``. The signal
    would be lost there, so it is repeated a little later.
    """
    error = ignored.exc_value
    if not isinstance(error, SignalExit | KeyboardInterrupt):
        report(ignored)
        return
    number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else error.code - 128  # type: ignore[operator]
    repeated = threading.Timer(0.1, os.kill, (os.getpid(), number))
    repeated.name = REPEATED
    repeated.daemon = True
    repeated.start()


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Holds SIGNALS back until the end of the block, which must be short."""
    held: list[int] = []
    with handle_signals(SIGNALS, lambda number, frame: held.append(number)):
        yield
    for number in held:
        signal.raise_signal(number)


def exit_with(line: str, status: int) -> NoReturn:
    """Exits with a line on stderr and a status; of several connected processes only the first prints the line."""
    if is_distributed() and not is_first():
        # Any other status of a child looks like a crash to Lightning's launcher, which then kills the first process.
        raise mark_collective(SystemExit(0 if is_child() else status))
    if not Launch.detect().is_first:
        time.sleep(3)  # the first process probably prints the same line, and its launcher ends this one
    sys.stderr.write(f"\n{line}\n" if status == 130 else f"{line}\n")
    raise mark_collective(SystemExit(status))


def error_line(error: BaseException, trainer: Trainer | None = None) -> tuple[str, int] | None:
    """Describes an error in one line, with the exit status; returns None for a bug."""
    if isinstance(error, (EarlySignal, KeyboardInterrupt)):
        return NOTHING_WRITTEN, getattr(error, "code", 130)
    if isinstance(error, ArgumentError):
        return one_line(str(error)), 2
    if isinstance(error, InputError):
        return error.line(flag_of(error.key)), 2
    if isinstance(error, FloatingPointError):
        remedy = "Lower --model.optimizer.lr or --model.latent_lr and continue with --resume, "
        remedy += "or give --on_nonfinite_loss skip."
        return f"{error}. {remedy}", 1
    if isinstance(error, TrainingSpikeException):
        return f"{error}. Lower --model.optimizer.lr or --model.latent_lr, or raise --callbacks.rtol.", 1
    if isinstance(error, torch.OutOfMemoryError):
        return _memory_line(trainer) if trainer else str(error), 1
    if isinstance(error, OSError):
        return _disk_line(error, trainer), 1
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"There is not enough memory ({' '.join(str(error).split())[:200]}). Lower --data.batch_size.", 1
    if "EADDRINUSE" in str(error):
        remedy = "is a port that another program uses. Set MASTER_PORT to another, or leave it out."
        return f"MASTER_PORT {os.environ.get('MASTER_PORT')}: {remedy}", 1
    if is_peer_failure(error):
        return "Lost contact with another process. Its own output or its launcher's says why.", 1
    return None


def translate(error: BaseException) -> BaseException:
    """Returns InputError for what Lightning or a logger's package raises itself; any other error as it is.

    Such as an absent metric, or an account that is missing.
    """
    raised_in = traceback.extract_tb(error.__traceback__)[-1]
    packages = set(Path(raised_in.filename).parts)
    is_other = not isinstance(error, Exception) or isinstance(error, TrainingSpikeException)
    if is_other or not (raised_in.line or "").startswith("raise "):
        return error
    said = " ".join(str(error).split()) or f"{raised_in.name} of a class of Lightning's has to be overridden"
    if loggers := packages & {"wandb", "mlflow", "comet_ml"}:
        if "wandb" in loggers:
            said = f"{str(error).splitlines()[0].rstrip('.')}. Or set WANDB_MODE=offline, and run wandb sync later."
        return InputError("logger", min(loggers), said)
    return InputError("trainer", "arguments", said) if packages & {"pytorch_lightning", "lightning_fabric"} else error


def _memory_line(trainer: Trainer) -> str:
    """Describes what fills the device's memory."""
    data, table = trainer.datamodule, trainer.lightning_module.latents.weight  # type: ignore[attr-defined, union-attr]
    images = "no images" if data.device_images is None else f"{data.device_images.nbytes / 1e9:.1f} GB of images"
    used = f"{images} and a table of {table.nbytes / 1e9:.1f} GB"  # type: ignore[operator]
    remedy = "Lower it or --model.generator.width, or give --data.cache_on_device false."
    return f"--data.batch_size {data.batch_size}: the device is out of memory, with {used} on it. {remedy}"


def _disk_line(error: OSError, trainer: Trainer | None) -> str:
    """Describes an error of the disk, and says what of the run is kept."""
    where, remedy = error.filename or "disk", f"{disk_remedy(error)}, or give another --output."
    if trainer is not None:
        folder = RunFolder(trainer.default_root_dir)
        where = error.filename or folder.path
        if folder.config.exists():
            kept = "The last checkpoint is intact. " if folder.last.exists() else ""
            remedy = f"{kept}{disk_remedy(error)} and continue with --resume {folder.path}"
    return f"{where}: {error.strerror or error}. {remedy}"


class AbortOnError(Callback):
    """Aborts a rank whose error the others do not share; Lightning would wait for the others to clean up."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size > 1 and not is_collective(exception):
            abort_rank(trainer, self.folder, exception)


def abort_rank(trainer: Trainer, folder: RunFolder, error: BaseException) -> NoReturn:
    """Ends this process and its children at once, with a line on stderr.

    A normal exit of the interpreter would wait for messages that never come. When the connections close, the other
    ranks end, too: torch tells them, or their launchers do.
    """
    status = _report(trainer, folder, error)
    for logger in trainer.loggers:
        with contextlib.suppress(OSError):
            logger.finalize("failed")
    for child in child_processes(trainer):
        child.kill()
    os._exit(status)


def _report(trainer: Trainer, folder: RunFolder, error: BaseException) -> int:
    """Prints what ended this rank; returns the exit status."""
    error = translate(error)
    if isinstance(error, InputError) or not folder.config.exists():
        folder.abandon()
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        remedy = f"Continue with --resume {folder.path}" if folder.config.exists() else "Nothing was written."
        described: tuple[str, int] | None = f"Stopped. {remedy}", int(getattr(error, "code", 130) or 0)
    else:
        described = error_line(error, trainer)
    if described is None:
        traceback.print_exception(error)
        return 1
    line, status = described
    sys.stderr.write(f"process {trainer.global_rank}: {line}\n")
    return status
