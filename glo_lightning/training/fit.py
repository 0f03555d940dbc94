"""One training: where it starts, the fit into its run folder, and its figures and samples at the end."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.trainer.states import TrainerStatus

from glo_lightning.data import LSUNDataModule
from glo_lightning.devices import Accelerator, find_device
from glo_lightning.distributed import init_cpu_group, is_collective, is_distributed, is_first, raise_on_all_ranks
from glo_lightning.errors import InputError
from glo_lightning.files import handle_write_errors, link_or_copy
from glo_lightning.lightning_internals import INTERRUPT_STATUS, epochs_done, launch, leave_signals_to_us
from glo_lightning.module import GLO
from glo_lightning.runs.checkpoints import read_checkpoint, read_newest
from glo_lightning.runs.folder import RunFolder
from glo_lightning.training.callbacks import INITIAL_ROWS
from glo_lightning.training.exits import (
    NOTHING_WRITTEN,
    SIGNALS,
    SIGNALS_BUT_INTERRUPT,
    abort_rank,
    exit_on_signal,
    exit_with,
    handle_signals,
    translate,
)
from glo_lightning.training.launch import PARENT_VARIABLE, Launch, end_with_parent, is_child, wait_for_children
from glo_lightning.training.samples import add_samples
from glo_lightning.training.summary import summarize

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Start:
    """Where a training starts: its folder, its launcher and its checkpoint.

    Attributes:
        folder: the run folder, which the first process has created and locked.
        launch: how this process was started.
        refused: why the first of several processes cannot use the folder; raised later, on all ranks.
        ckpt_path: the checkpoint to continue from.
        global_step: the step of that checkpoint.
        finished: the message for a run that has nothing left to do.
    """

    folder: RunFolder
    launch: Launch
    refused: InputError | None = None
    ckpt_path: Path | None = None
    global_step: int = 0
    finished: str | None = None

    def read(self, config: Namespace) -> None:
        """Finds and reads the checkpoint to continue from."""
        if config.ckpt_path is not None:
            self.ckpt_path = Path(config.ckpt_path)
            checkpoint = read_checkpoint(self.ckpt_path, "ckpt_path")
        elif config.resume is None:
            return
        elif self.folder.checkpoints():
            self.ckpt_path, checkpoint = read_newest(self.folder, "resume")
        elif self.folder.best.exists():  # which would be replaced
            remedy = f"has no last.ckpt. Continue from {self.folder.best} by --ckpt_path, or remove it to start again."
            raise InputError("resume", config.resume, remedy)
        else:
            return
        self.global_step = checkpoint["global_step"]
        self.finished = _finished(config.trainer, checkpoint)
        if self.finished and self.refused is not None:
            raise self.refused


def create_folder(config: Namespace, recipe: str) -> Start:
    """Creates and locks the run folder, in the first process, before any work that takes long.

    Without ``--output`` and ``--resume`` it lies in ``runs/<recipe>/``.
    """
    resume, output, trainer = config.resume, config.output, config.trainer
    named = output if resume is None else resume
    folder = RunFolder(Path(trainer.default_root_dir or ".") / "runs" / recipe if named is None else named)
    start = Start(folder, Launch.detect())
    if not start.launch.is_first or trainer.fast_dev_run or trainer.barebones:
        return start  # another process writes, or none
    try:
        if named is None:
            start.folder = RunFolder.next_version(folder.path)
        else:
            folder.create("output" if resume is None else "resume")
    except InputError as error:
        if start.launch.by is None:
            raise
        start.refused = error
    return start


def _finished(trainer: Namespace, checkpoint: dict[str, Any]) -> str | None:
    epochs = epochs_done(checkpoint)
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs:
        return f"This run has finished its {epochs} epochs. Continue it with, for example, --max_epochs {2 * epochs}."
    if 0 <= trainer.max_steps <= checkpoint["global_step"]:
        return f"This run has finished its {trainer.max_steps} steps. Continue it with --max_steps or --max_epochs."
    return None


def fit(start: Start, trainer: Trainer, model: GLO, data: LSUNDataModule) -> None:
    """Trains into the run folder. An error before the first step leaves no folder behind."""
    try:
        _connect_processes(start.launch, trainer)
    except BaseException:
        wait_for_children(trainer, seconds=0)  # without this process they would wait for half an hour
        raise
    try:
        _fit(start, trainer, model, data)
    except BaseException as error:
        if is_distributed():
            if not is_collective(error):
                abort_rank(trainer, start.folder, error)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # torchrun sends SIGTERM to the ranks that exit last
        raise
    finally:
        wait_for_children(trainer)


def _connect_processes(launched: Launch, trainer: Trainer) -> None:
    """Starts the other processes of this node, unless torchrun or srun has, and connects all ranks."""
    if trainer.strategy.launcher is None:
        return
    if is_child() or launched.by == "torchrun":
        end_with_parent()
    elif launched.by is None:
        os.environ[PARENT_VARIABLE] = str(os.getpid())

    def connect() -> None:
        trainer.strategy.setup_environment()
        init_cpu_group()

    # While it waits for the others, Python cannot call a handler. A signal then leaves an empty folder, which the next
    # run uses.
    with handle_signals(SIGNALS, signal.SIG_DFL):
        launch(trainer, connect)
    if is_distributed():
        leave_signals_to_us(trainer)


def _fit(start: Start, trainer: Trainer, model: GLO, data: LSUNDataModule) -> None:
    """Fits in this process, and exits with a line after a signal."""
    folder = start.folder
    with handle_signals(SIGNALS_BUT_INTERRUPT, exit_on_signal):
        try:
            with raise_on_all_ranks():
                _prepare_folder(start, trainer, model)
            log.info("run folder: %s", folder.path)
            try:
                trainer.fit(model, data, ckpt_path=start.ckpt_path, weights_only=True)
            except Exception as error:  # raised again, in one line where Lightning or a logger says what is wrong
                raise translate(error) from error.__cause__
            if trainer.global_step == 0:
                log.info("No step was trained, since a limit of epochs, steps or batches is 0. Nothing was written.")
        except (InputError, OSError) as error:
            if isinstance(error, InputError) or not folder.config.exists():
                folder.abandon()
            raise
        except SystemExit as end:  # after a signal, or Lightning's after KeyboardInterrupt
            status = 130 if end.code == INTERRUPT_STATUS else int(end.code or 0)
            if is_distributed() and not is_collective(end):
                raise
            if folder.config.exists():
                if trainer.state.status != TrainerStatus.INTERRUPTED:
                    raise
                exit_with(f"Stopped after step {trainer.global_step}. Continue with --resume {folder.path}", status)
            folder.abandon()
            exit_with(NOTHING_WRITTEN, status)


def _prepare_folder(start: Start, trainer: Trainer, model: GLO) -> None:
    """Checks the run folder and its disk, in the first process."""
    if start.refused is not None:
        raise start.refused
    if is_first() and not trainer.fast_dev_run and not trainer.barebones:  # type: ignore[attr-defined]
        start.folder.check_room(4 * _checkpoint_bytes(model))
        if start.ckpt_path == start.folder.previous:
            link_or_copy(start.ckpt_path, start.folder.last)  # which is damaged or missing


def _checkpoint_bytes(model: GLO) -> int:
    """The size of a checkpoint, or a little less. A custom rule for the rows may keep as much state as Adam."""
    weights = sum(value.nbytes for value in model.state_dict().values() if isinstance(value, torch.Tensor))
    table = model.latents.weight
    state = 0
    if not model.hparams["optimizer"]["class_path"].endswith("SGD"):
        state = 2 * sum(weight.nbytes for weight in model.generator.parameters())
    return weights + table[:INITIAL_ROWS].nbytes + state


def finish(
    start: Start, config: Namespace, model: GLO, data: LSUNDataModule, loggers: Sequence[Logger], stopped_by: int | None
) -> None:
    """Measures a run that was trained to its end, fits ``--prior``, draws samples, and logs what ``summarize`` says.

    Samples that were drawn before are left as they are. ``stopped_by`` is a signal that came during the last step.
    """
    folder, lines = start.folder, []
    if not start.launch.is_first:
        return
    accelerator: Accelerator = "cpu" if config.trainer.accelerator == "cpu" else "auto"
    on_write_error = config.checkpoint.on_write_error
    fits_prior = config.prior is not None and folder.last.exists()
    with handle_signals(SIGNALS, exit_on_signal):
        try:
            if folder.metrics.exists() and not start.finished and stopped_by is None:
                with handle_write_errors(folder.metrics.name, on_write_error):
                    lines = summarize(folder, model.to(find_device(accelerator)), data)
            if fits_prior:
                if stopped_by is not None:
                    exit_on_signal(stopped_by, None)
                with handle_write_errors("The picture of samples", on_write_error):
                    add_samples(folder.path, config.prior, accelerator, loggers, replace=not start.finished)
        except SystemExit as end:
            again = f"; --resume {folder.path} fits the prior." if fits_prior else "."
            exit_with(f"Stopped after the last step. The run is finished{again}", int(end.code or 0))
    for line in lines:
        log.info(line)
