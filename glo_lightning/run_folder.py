"""The run folder: who may write into it, config.yaml, TensorBoard, checkpoints that survive a kill."""

from __future__ import annotations

import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger

from glo_lightning.errors import InputError


class RunFolder:
    """A folder that holds one run: ``config.yaml``, TensorBoard events, ``checkpoints/`` and ``images/``.

    Args:
        path: where it is, or is to be.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).absolute()
        self.config, self.last = self.path / "config.yaml", self.path / "checkpoints" / "last.ckpt"
        self._made: list[Path] = []

    @classmethod
    def next_version(cls, base: Path) -> RunFolder:
        """The first folder ``base/version_<k>`` that does not exist."""
        number = 0
        while (base / f"version_{number}").exists():
            number += 1
        return cls(base / f"version_{number}")

    def claim(self, room: int) -> None:
        """Makes the folder, so that a place that cannot be written is found out before any work.

        Args:
            room: bytes that must be free there, for the newest checkpoint, the best, and one that is being written.

        Raises:
            InputError: when it cannot be made, or is full.
        """
        try:
            for folder in [*reversed(self.path.parents), self.path]:
                if not folder.exists():
                    folder.mkdir()
                    self._made.append(folder)
            probe = self.path / ".probe"
            probe.write_bytes(b"0" * 4096)
            probe.unlink()
        except OSError as error:
            self.abandon()
            raise InputError(
                "output", self.path, f"cannot be written ({error.strerror}); give another folder"
            ) from error
        free = shutil.disk_usage(self.path).free
        if free < room:
            self.abandon()
            remedy = f"{free / 1e6:.0f} MB are free there and checkpoints need {room / 1e6:.0f}; make room"
            raise InputError("output", self.path, remedy)

    def abandon(self) -> None:
        """Removes what ``claim`` made, unless a checkpoint lies in it."""
        if not self.last.exists():
            for folder in reversed(self._made):
                if folder == self.path:
                    shutil.rmtree(folder)
                elif not any(folder.iterdir()):
                    folder.rmdir()
        self._made = []


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Has ``write(file)`` fill a file beside ``path`` and moves it there, synced: old or new, never half."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves checkpoints whole or not at all, and loads them without unpickling code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return super().load_checkpoint(Path(path), map_location, weights_only=True)


class Checkpoints(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` after every epoch, and ``best.ckpt`` when ``train/loss_epoch`` is its lowest.

    ``best.ckpt`` is a hard link to the same state where the file system has them. Lightning's ModelCheckpoint keeps
    ``last`` new only without a monitor, and forgets the best score when the folder is moved.
    """

    def __init__(self) -> None:
        self.best = math.inf

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        loss = float(trainer.callback_metrics["train/loss_epoch"])
        is_best = loss < self.best
        self.best = min(loss, self.best)
        last = RunFolder(trainer.default_root_dir).last
        trainer.save_checkpoint(last)
        if trainer.is_global_zero and (is_best or not last.with_name("best.ckpt").exists()):
            link = last.with_name(".best.ckpt.tmp")
            link.unlink(missing_ok=True)
            try:
                os.link(last, link)
            except OSError:
                shutil.copyfile(last, link)
            os.replace(link, last.with_name("best.ckpt"))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class WriteConfig(Callback):
    """Writes ``config.yaml`` when training starts: all input has been checked by then."""

    def __init__(self, config: str):
        self.config = config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_atomically(RunFolder(trainer.default_root_dir).config, lambda file: file.write(self.config.encode()))


class RunLogger(TensorBoardLogger):
    """TensorBoard events directly in the run folder, without Lightning's hparams.yaml: config.yaml holds them.

    Args:
        folder: the run folder.
        first_step: events from this step on, of a run that was cut off, no longer count.
    """

    def __init__(self, folder: Path, first_step: int | None):
        super().__init__(folder, name="", version="", default_hp_metric=False, purge_step=first_step)

    def save(self) -> None:
        self.experiment.flush()


def read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    """Reads a checkpoint, its tensors mapped from the file rather than read.

    Args:
        path: the file.
        key: the flag that it was given by.

    Raises:
        InputError: when there is none, or it is damaged.
    """
    if not path.is_file():
        raise InputError(key, path, "there is no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["global_step"], checkpoint["hyper_parameters"]["num_images"], checkpoint["loops"]
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        remedy = "is damaged, or no checkpoint of a GLO; give another by --ckpt_path, or remove it to begin anew"
        raise InputError(key, path, remedy) from error
    return checkpoint
