"""The run folder: who may write into it, and config.yaml, environment.json and TensorBoard in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from glo_lightning.errors import InputError
from glo_lightning.files import write_text
from glo_lightning.runs.environment import describe_environment


class RunFolder:
    """A folder that holds one run.

    In it are ``config.yaml``, ``environment.json``, TensorBoard events, ``checkpoints/`` and ``images/``.

    Args:
        path: where it is, or is to be.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).absolute()
        self.config, self.environment = self.path / "config.yaml", self.path / "environment.json"
        checkpoints = self.path / "checkpoints"
        self.last, self.previous = checkpoints / "last.ckpt", checkpoints / "previous.ckpt"
        self.best = checkpoints / "best.ckpt"
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
            room: bytes that must be free there: for the newest checkpoint, the one before, the best, one being written.

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
        if not self.last.exists() and not self.previous.exists():
            for folder in reversed(self._made):
                if folder == self.path:
                    shutil.rmtree(folder)
                elif not any(folder.iterdir()):
                    folder.rmdir()
        self._made = []


class WriteConfig(Callback):
    """Writes ``config.yaml`` and ``environment.json`` when training starts: all input has been checked by then.

    ``environment.json`` is a list with one entry for each start: the first, and every resume.
    """

    def __init__(self, config: str, seed: int | None):
        self.config, self.seed = config, seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = RunFolder(trainer.default_root_dir)
            starts = json.loads(folder.environment.read_bytes()) if folder.environment.exists() else []
            data = trainer.datamodule  # type: ignore[attr-defined]
            starts.append(describe_environment(self.seed, data.source, data.attributes))
            write_text(folder.environment, json.dumps(starts, indent=1, ensure_ascii=False))
            write_text(folder.config, self.config)


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
