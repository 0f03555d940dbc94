"""One training: where it begins, the fit into its run folder, and samples of its codes at the end."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerStatus

from glo_lightning.data import LSUNDataModule
from glo_lightning.distributed import init_cpu_group, is_collective, is_distributed, is_first, raise_on_all_ranks
from glo_lightning.errors import InputError
from glo_lightning.explore.samples import add_samples
from glo_lightning.explore.trained_run import Accelerator
from glo_lightning.files import link
from glo_lightning.lightning_internals import INTERRUPT_STATUS, epochs_done, launch, leave_signals_to_us
from glo_lightning.module import GLO
from glo_lightning.optimizers import ROW_RULES
from glo_lightning.runs.checkpoints import newest_checkpoint, read_checkpoint
from glo_lightning.runs.folder import RunFolder
from glo_lightning.training.callbacks import INITIAL_ROWS
from glo_lightning.training.exits import NOTHING_WRITTEN, SIGNALS, abort_rank, leave, signals_answered, stop
from glo_lightning.training.launch import (
    PARENT_VARIABLE,
    Launch,
    end_with_parent,
    is_child,
    wait_for_children,
)

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Start:
    """Where a training begins.

    Attributes:
        folder: the run folder; the first process has made and locked it.
        launch: who started this process.
        refused: why the first of several processes cannot have the folder, to be raised where all hear of it.
        ckpt_path: the checkpoint to go on from.
        resumes_previous: whether that is the one before the last, which is damaged or missing.
        global_step: of that checkpoint.
        finished: what to say of a run that has nothing left to do.
    """

    folder: RunFolder
    launch: Launch
    refused: InputError | None = None
    ckpt_path: Path | None = None
    resumes_previous: bool = False
    global_step: int = 0
    finished: str | None = None

    def read(self, config: Namespace) -> None:
        """Finds the checkpoint to go on from, and reads what it says of its run.

        Raises:
            InputError: for a checkpoint that cannot be read.
        """
        key = "resume" if config.ckpt_path is None else "ckpt_path"
        if config.ckpt_path is not None:
            self.ckpt_path = Path(config.ckpt_path)
        elif config.resume is not None:
            self.ckpt_path = newest_checkpoint(self.folder)
            self.resumes_previous = self.ckpt_path == self.folder.previous
        if self.ckpt_path is None:
            return
        checkpoint = read_checkpoint(self.ckpt_path, key)
        self.global_step = checkpoint["global_step"]
        self.finished = _finished(config.trainer, checkpoint)
        if self.finished and self.refused is not None:
            raise self.refused


def claim_folder(config: Namespace, recipe: str) -> Start:
    """Makes and locks the run folder before anything that takes long; of several processes the first does.

    Raises:
        InputError: when it cannot be made, or is in use, or holds a run already, or none to go on with.
    """
    resume, output, trainer = config.resume, config.output, config.trainer
    folder = RunFolder(resume or output or Path(trainer.default_root_dir or ".") / "runs" / recipe)
    if resume is not None and not folder.config.is_file():
        raise InputError("resume", resume, "holds no run (no config.yaml); give the folder of a run")
    start = Start(folder, Launch.found())
    if not start.launch.is_first or trainer.fast_dev_run or trainer.barebones:
        return start  # it is another process that writes, or nobody
    try:
        if resume is None and output is None:
            start.folder = RunFolder.next_version(folder.path)
        else:
            folder.claim("output" if resume is None else "resume")
    except InputError as error:
        if start.launch.by is None:
            raise
        start.refused = error
    return start


def _finished(trainer: Namespace, checkpoint: dict[str, Any]) -> str | None:
    epochs = epochs_done(checkpoint)
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs:
        return f"this run is finished after {epochs} epochs; go on with --max_epochs {2 * epochs}, say"
    if 0 <= trainer.max_steps <= checkpoint["global_step"]:
        return f"this run is finished after {trainer.max_steps} steps; go on with --max_steps or --max_epochs"
    return None


def fit(start: Start, trainer: Trainer, model: GLO, data: LSUNDataModule) -> None:
    """Trains into the run folder; what fails before there is anything to keep leaves no folder behind.

    Raises:
        InputError: for input that turns out wrong only now.
        OSError: when the folder cannot be written.
    """
    _meet_others(start.launch, trainer)
    try:
        _fit(start, trainer, model, data)
    except BaseException as error:
        if is_distributed():
            if not is_collective(error):
                abort_rank(trainer, start.folder, error)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # torchrun sends SIGTERM to those that leave a little later
        raise
    finally:
        wait_for_children(trainer)


def _meet_others(launched: Launch, trainer: Trainer) -> None:
    """Starts the other processes, if there are to be any and nobody else does, and connects all of them."""
    if trainer.strategy.launcher is None:
        return
    if is_child() or launched.by == "torchrun":
        end_with_parent()
    elif launched.by is None:
        os.environ[PARENT_VARIABLE] = str(os.getpid())

    def connect() -> None:
        trainer.strategy.setup_environment()
        init_cpu_group()

    # Python would not hear a signal while it waits for the others, and there is but an empty folder to clean up, which
    # the next run takes.
    with signals_answered(SIGNALS, signal.SIG_DFL):
        launch(trainer, connect)
    if is_distributed():
        leave_signals_to_us(trainer)


def _fit(start: Start, trainer: Trainer, model: GLO, data: LSUNDataModule) -> None:
    """The fit in one process, and what its end leaves behind."""
    folder = start.folder
    with signals_answered((signal.SIGTERM, signal.SIGUSR1), leave):
        try:
            with raise_on_all_ranks():
                _prepare_folder(start, trainer, model)
            log.info("run folder: %s", folder.path)
            trainer.fit(model, data, ckpt_path=start.ckpt_path, weights_only=True)
        except (InputError, OSError) as error:
            if isinstance(error, InputError) or not folder.config.exists():
                folder.abandon()
            raise
        except SystemExit as end:  # a signal, or Lightning's answer to a KeyboardInterrupt
            status = 130 if end.code == INTERRUPT_STATUS else int(end.code or 0)
            if is_distributed() and not is_collective(end):
                raise
            if folder.config.exists():
                if trainer.state.status != TrainerStatus.INTERRUPTED:
                    raise
                stop(f"stopped after step {trainer.global_step}; go on with --resume {folder.path}", status)
            folder.abandon()
            stop(NOTHING_WRITTEN, status)


def _prepare_folder(start: Start, trainer: Trainer, model: GLO) -> None:
    """Checks the run folder, in the first process."""
    if start.refused is not None:
        raise start.refused
    if is_first() and not trainer.fast_dev_run and not trainer.barebones:  # type: ignore[attr-defined]
        start.folder.check_room(4 * _checkpoint_bytes(model))
        if start.resumes_previous:
            link(start.folder.previous, start.folder.last)  # which is damaged or missing


def _checkpoint_bytes(model: GLO) -> int:
    """How large a checkpoint gets, or a little less; a rule of one's own for the rows may keep as much as Adam's."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    table = model.latents.weight
    state = 8 * table.shape[1] ** 2 if model.hparams["latent_optimizer"] in ROW_RULES else 2 * weights
    if model.hparams["generator_optimizer"] == "adamw":
        state += 2 * sum(weight.nbytes for weight in model.generator.parameters())
    return weights + table[:INITIAL_ROWS].nbytes + state


def show_samples(start: Start, config: Namespace, stopped_by: int | None) -> None:
    """Fits ``--prior`` to the codes of the finished run, unless that is done, and shows samples of it.

    Args:
        start: of the run.
        config: of the command line.
        stopped_by: a signal that came in the last step.
    """
    folder = start.folder
    if config.prior is None or not start.launch.is_first or not folder.last.exists():
        return
    accelerator: Accelerator = "cpu" if config.trainer.accelerator == "cpu" else "auto"
    with signals_answered(SIGNALS, leave):
        try:
            if stopped_by is not None:
                leave(stopped_by, None)
            add_samples(folder.path, config.prior, accelerator, anew=not start.finished)
        except SystemExit as end:
            line = f"stopped while the prior was fitted; the run is finished, --resume {folder.path} fits it"
            stop(line, int(end.code or 0))
