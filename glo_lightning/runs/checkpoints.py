"""Checkpoints that survive a kill: when they are written, how, and which one is read."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from glo_lightning.checkpoint_format import check_format
from glo_lightning.distributed import SyncTimer, all_reduce_max, is_distributed, mark_collective, raise_on_all_ranks
from glo_lightning.errors import DamagedError, InputError, OnError, check_at_least, check_choice, decoding
from glo_lightning.files import handle_write_errors, link, link_or_copy, load_torch, sync_folder, write_whole
from glo_lightning.lightning_internals import clear_restarting, finish_epoch
from glo_lightning.runs.folder import RunFolder

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)  # that end a run with a checkpoint


def set_handler(numbers: Iterable[int], handler: Any) -> None:
    """Has the handler called for these signals; SIGHUP stays ignored in a program that nohup has started."""
    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves checkpoints atomically, and loads them without unpickling code.

    Args:
        on_write_error: ``raise``, or ``skip`` a checkpoint that cannot be written, with a warning.
    """

    def __init__(self, on_write_error: OnError = "raise"):
        self.on_write_error = on_write_error
        self.error: OSError | None = None  # of several processes, that of rank 0, until it can be raised on all ranks

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        try:
            with handle_write_errors("A checkpoint", self.on_write_error):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                write_whole(Path(path), lambda file: torch.save(checkpoint, file))
        except OSError as error:
            if not is_distributed():
                raise
            self.error = error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return super().load_checkpoint(Path(path), map_location, weights_only=True)


class Checkpoints(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` after every epoch, and ``best.ckpt`` after the best one so far.

    The best epoch has the lowest ``train/loss_epoch`` or, with held-out images, the highest ``val/psnr``.

    ``previous.ckpt`` keeps the state before ``last.ckpt``. Files with the same state are hard links, if the file system
    has them. A run resumed from any checkpoint trains each remaining image of the epoch once. On the CPU it ends
    bit-identical to an uninterrupted run.

    SIGTERM, SIGUSR1 (a scheduler's warning), SIGHUP (a closed terminal, unless nohup has it ignored) and Ctrl-C write
    ``last.ckpt`` at the end of the step and exit with status 128 + the signal's number: 143, 138, 129 and 130. A second
    Ctrl-C exits at once. With several processes, a signal to one is enough: they ask each other at most about a second
    apart.

    Lightning's ModelCheckpoint does not update ``last`` when it monitors a score, and it forgets the best score when
    the folder is moved.

    Args:
        every_n_steps: steps between two writes of ``last.ckpt``, in addition to those at the ends of epochs.
        every_minutes: minutes between two writes of ``last.ckpt``, in addition to those at the ends of epochs.
        on_write_error: ``raise`` if a checkpoint, a picture or TensorBoard's events cannot be written, or ``skip`` it;
            the checkpoint before is intact.

    Raises:
        InputError: for a value out of range.
    """

    def __init__(
        self, every_n_steps: int | None = None, every_minutes: float | None = None, on_write_error: OnError = "raise"
    ):
        if every_n_steps is not None:
            check_at_least("every_n_steps", every_n_steps, 1)
        if every_minutes is not None:
            check_at_least("every_minutes", every_minutes, 0)
        check_choice("on_write_error", on_write_error, OnError)
        self.every_n_steps, self.every_minutes, self.on_write_error = every_n_steps, every_minutes, on_write_error
        self.best = math.inf
        self.signal: int | None = None
        self.exit_signal = 0  # the signal that ends the run, on all ranks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps Lightning's ModelCheckpoint from writing this run's ``last.ckpt``."""
        folder = os.path.realpath(RunFolder(trainer.default_root_dir).last.parent)
        for other in trainer.checkpoint_callbacks:
            if isinstance(other, ModelCheckpoint) and os.path.realpath(other.dirpath or folder) == folder:
                if other.CHECKPOINT_NAME_LAST == "last":
                    other.CHECKPOINT_NAME_LAST = "last-of-lightning"
                if other.filename in ("last", "previous", "best"):
                    remedy = "is the name of one of the run's own checkpoints. Give another."
                    raise InputError("filename", other.filename, remedy)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step, self.saved_at, self.timer = trainer.global_step, time.monotonic(), SyncTimer()
        clear_restarting(trainer)
        if threading.current_thread() is threading.main_thread():
            set_handler(SIGNALS, self._on_signal)  # Lightning puts the old ones back at the end

    def _on_signal(self, number: int, frame: object) -> None:
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        log.info("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not right after the checkpoint: what the step has logged is only written after its last callback.
        if self.exit_signal:
            raise mark_collective(SystemExit(128 + self.exit_signal))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step or trainer.is_last_batch:
            return  # between the batches of one step, or right before the epoch's own checkpoint
        self.step = trainer.global_step
        is_due = False
        if self.timer.due():
            minutes = (time.monotonic() - self.saved_at) / 60
            overdue = self.every_minutes is not None and minutes >= self.every_minutes
            number, overdue_on_any = self.timer.sync(self.signal or 0, overdue)
            self.exit_signal, is_due = int(number), bool(overdue_on_any)
        if self.exit_signal or is_due or (self.every_n_steps is not None and self.step % self.every_n_steps == 0):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        metrics = trainer.callback_metrics
        score = -metrics["val/psnr"] if "val/psnr" in metrics else metrics["train/loss_epoch"]
        is_best = float(score) < self.best
        self.best = min(float(score), self.best)
        saved = self._save(trainer)
        self.exit_signal = int(all_reduce_max(self.signal or 0)[0])
        folder = RunFolder(trainer.default_root_dir)
        with raise_on_all_ranks(), handle_write_errors("A checkpoint", self.on_write_error):
            if saved and (is_best or not folder.best.exists()):
                link_or_copy(folder.last, folder.best)

    def _save(self, trainer: Trainer) -> bool:
        """Replaces ``last.ckpt``, which becomes ``previous.ckpt``. Returns on rank 0 whether it was written."""
        folder = RunFolder(trainer.default_root_dir)
        new = folder.last.with_name(".new.ckpt")
        if trainer.is_global_zero:
            new.unlink(missing_ok=True)
        trainer.save_checkpoint(new)
        self.saved_at = time.monotonic()
        with raise_on_all_ranks():
            error = getattr(trainer.strategy.checkpoint_io, "error", None)
            if error is not None:
                raise error
            if not (trainer.is_global_zero and new.exists()):
                return False
            with handle_write_errors("A checkpoint", self.on_write_error):
                if folder.last.exists():
                    try:
                        link(folder.last, folder.previous)
                    except OSError:  # no hard links here
                        os.replace(folder.last, folder.previous)
                os.replace(new, folder.last)
                sync_folder(folder.last.parent)
        return True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        finish_epoch(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def write_policy(trainer: Trainer) -> OnError:
    """What to do when the disk fails: ``on_write_error`` of the run's Checkpoints, else ``raise``."""
    ours = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoints)]
    return ours[0].on_write_error if ours else "raise"


def read_newest(folder: RunFolder, key: str) -> tuple[Path, dict[str, Any]]:
    """Reads ``last.ckpt`` or, with a warning, ``previous.ckpt`` if that is damaged or missing.

    Returns:
        The file, and the checkpoint as ``read_checkpoint`` returns it, which also says what is raised.
    """
    errors: list[InputError] = []
    for path in folder.checkpoints():
        try:
            checkpoint = read_checkpoint(path, key)
        except DamagedError as error:
            errors.append(error)
            continue
        if path != folder.last:
            log.warning("%s is damaged or missing. Continuing from %s, an earlier state.", folder.last, path.name)
        return path, checkpoint
    raise errors[0] if errors else InputError(key, folder.path, "contains no checkpoint. Give another run.")


def read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    """Reads a checkpoint and verifies its checksums; its tensors are mapped from the file.

    Raises:
        DamagedError: if it is damaged or not a checkpoint.
        InputError: if it does not exist, or has another format.
    """
    if not path.is_file():
        raise InputError(key, path, "there is no such checkpoint. Check the path.")
    with decoding(key, path, "It is damaged or not a checkpoint of GLO. Give another."):
        checkpoint = load_torch(path)
        checkpoint["global_step"], checkpoint["hyper_parameters"]["num_images"], checkpoint["loops"]
    check_format(checkpoint)
    return checkpoint


def check_last_format(folder: RunFolder, key: str) -> None:
    """Raises InputError if ``last.ckpt`` has another format. A damaged or missing one is left to ``read_newest``."""
    if folder.last.is_file():
        with contextlib.suppress(DamagedError), decoding(key, folder.last, ""):
            check_format(torch.load(folder.last, map_location="cpu", weights_only=True, mmap=True))
