"""The run folder: who may write into it, and config.yaml, environment.json and TensorBoard in it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Literal

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from glo_lightning.errors import InputError
from glo_lightning.files import write_text
from glo_lightning.locks import Lock
from glo_lightning.runs.environment import describe_data, describe_environment

LOCK = ".lock"


class RunFolder:
    """A folder that holds one run, and that one process at a time trains in.

    In it are ``config.yaml``, ``environment.json``, TensorBoard events, ``checkpoints/`` and ``images/``.

    Args:
        path: where it is, or is to be.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.given, self.path = path, Path(path).absolute()
        self.config, self.environment = self.path / "config.yaml", self.path / "environment.json"
        checkpoints = self.path / "checkpoints"
        self.last, self.previous = checkpoints / "last.ckpt", checkpoints / "previous.ckpt"
        self.best = checkpoints / "best.ckpt"
        self.lock = Lock(self.path / LOCK)
        self._made: list[Path] = []

    @classmethod
    def next_version(cls, base: Path) -> RunFolder:
        """Makes and locks the first folder ``base/version_<k>`` that does not exist, or holds nothing.

        Raises:
            InputError: when it cannot be made.
        """
        for number in itertools.count():
            folder = cls(base / f"version_{number}")
            if not folder._holds_something() and folder._lock("output"):
                if not folder._holds_something():
                    return folder
                folder.release()  # another run began and ended in it meanwhile
        raise AssertionError

    def claim(self, key: Literal["output", "resume"]) -> None:
        """Makes the folder, and locks it until ``release``, or until this process ends.

        Args:
            key: ``output`` for a new run, ``resume`` for the one that it holds.

        Raises:
            InputError: when it cannot be made, another process trains in it, or it holds a run already.
        """
        if not self._lock(key):
            remedy = "Give another folder" if key == "output" else "Wait for its end, or stop it"
            raise InputError(key, self.given, f"is in use by {self.lock.holder()}. {remedy}")
        if key == "output" and self.config.exists():
            self.release()
            remedy = f"holds a run; go on with it by --resume {self.given}, or give another folder"
            raise InputError("output", self.given, remedy)

    def _lock(self, key: str) -> bool:
        missing: list[Path] = []
        for tries_left in reversed(range(10)):
            try:
                missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
                self.path.mkdir(parents=True, exist_ok=True)
                is_ours = self.lock.acquire()
                break
            except OSError as error:
                if isinstance(error, FileNotFoundError) and tries_left:
                    continue  # a run that failed has just removed a folder that it had made
                self._remove(missing)
                remedy = "Give another folder" if key == "output" else "Copy the run to a place where it can be"
                raise InputError(key, self.given, f"cannot be written ({error.strerror}). {remedy}") from error
        self._made = missing if is_ours else []
        return is_ours

    def _holds_something(self) -> bool:
        try:
            return not set(os.listdir(self.path)) <= {self.lock.path.name, self.lock.owner.name}
        except FileNotFoundError:
            return False
        except OSError:  # no folder, or one that may not be read
            return True

    def check_room(self, room: int) -> None:
        """Raises InputError for a full disk, before any work.

        Args:
            room: bytes that must be free: for the newest checkpoint, the one before, the best, one being written.
        """
        free = shutil.disk_usage(self.path).free
        if free < room:
            self.abandon()
            remedy = f"{free / 1e6:.0f} MB are free there and checkpoints need {room / 1e6:.0f}; make room"
            raise InputError("output", self.path, remedy)

    def abandon(self) -> None:
        """Removes what ``claim`` made, unless a checkpoint lies in it, and releases the folder."""
        if self.path in self._made and not self.last.exists() and not self.previous.exists():
            shutil.rmtree(self.path)
        self.release()
        self._remove(self._made[1:])
        self._made = []

    @staticmethod
    def _remove(folders: list[Path]) -> None:
        """Removes those that are empty, the innermost first."""
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def release(self) -> None:
        """Lets other processes train in the folder."""
        self.lock.release()


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
            starts.append({**describe_environment(self.seed), "data": describe_data(data)})
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
