"""The run folder: its lock, config.yaml, environment.json and TensorBoard events."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from glo_lightning.errors import DamagedError, InputError, OnError, decoding
from glo_lightning.files import write_text
from glo_lightning.lightning_internals import flatten_dict
from glo_lightning.locks import Lock
from glo_lightning.runs.environment import describe_data, describe_environment
from glo_lightning.runs.names import missing_run

log = logging.getLogger(__name__)


class RunFolder:
    """A folder that contains one run, and in which one process at a time trains.

    Args:
        path: the folder, which need not exist.
        config: the name of the file with its configuration.
    """

    def __init__(self, path: str | os.PathLike[str], config: str = "config.yaml"):
        self.name, self.path = path, Path(path).absolute()  # as the user names it, and where it is
        self.config, self.environment = self.path / config, self.path / "environment.json"
        checkpoints = self.path / "checkpoints"
        self.last, self.previous = checkpoints / "last.ckpt", checkpoints / "previous.ckpt"
        self.best = checkpoints / "best.ckpt"
        self.metrics = self.path / "metrics.json"
        self.lock = Lock(self.path / ".lock")
        self._created: list[Path] = []

    @classmethod
    def next_version(cls, base: Path) -> RunFolder:
        """Creates and locks the first folder ``base/version_<k>`` that does not exist or is empty."""
        for number in itertools.count():
            folder = cls(base / f"version_{number}")
            if not folder._is_used() and folder._lock("output"):
                if not folder._is_used():
                    return folder
                folder.lock.release()  # meanwhile another run has begun and ended in it
        raise AssertionError

    def create(self, key: Literal["output", "resume"]) -> None:
        """Creates the folder if it does not exist, and locks it until ``release`` or the end of this process.

        Args:
            key: ``output`` for a new run, ``resume`` for the run in the folder.

        Raises:
            InputError: if it cannot be created, if another process trains in it, or if it already contains a run.
        """
        if not self._lock(key):
            remedy = "Give another folder." if key == "output" else "Wait until that process ends, or stop it."
            raise InputError(key, self.name, f"is in use by {self.lock.holder()}. {remedy}")
        if key == "output" and self.config.exists():
            self.lock.release()
            remedy = f"contains a run. Continue it with --resume {self.name}, or give another folder."
            raise InputError("output", self.name, remedy)

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
                    continue  # a run that failed has just removed a folder that it had created
                self._remove(missing)
                remedy = "Give another folder." if key == "output" else "Copy the run to a disk that can be written."
                raise InputError(key, self.name, f"cannot be written ({error.strerror}). {remedy}") from error
        self._created = missing if is_ours else []
        return is_ours

    def _is_used(self) -> bool:
        try:
            return not set(os.listdir(self.path)) <= {self.lock.path.name, self.lock.owner.name}
        except FileNotFoundError:
            return False
        except OSError:  # a file, or a folder without permission to read
            return True

    def checkpoints(self) -> list[Path]:
        """The checkpoints to continue from that exist, the newest first."""
        return [path for path in (self.last, self.previous) if path.exists()]

    def read_config(self, key: str) -> dict[str, Any]:
        """Reads ``config.yaml``, as plain values.

        Raises:
            InputError: if there is no run, or if the file is damaged.
        """
        if not self.config.is_file():
            raise missing_run(key, self.name)
        remedy = "Restore it, or train on from checkpoints/last.ckpt with the run's flags and --ckpt_path."
        with decoding(key, self.config, remedy):
            config = yaml.safe_load(self.config.read_bytes())
            for section in ("data", "model", "trainer", "checkpoint"):
                if not isinstance(config[section], dict):
                    raise TypeError(f"{section} is not a mapping")
            return config

    def read_starts(self) -> list[Any]:
        """Reads the entries of ``environment.json``. A damaged file is moved aside, with a warning."""
        if not self.environment.exists():
            return []
        aside = self.environment.with_name("environment.damaged.json")
        try:
            with decoding("environment", self.environment, f"Earlier starts are listed in {aside.name} only."):
                starts = json.loads(self.environment.read_bytes())
                if not isinstance(starts, list):
                    raise TypeError("it is not a list")
                return starts
        except DamagedError as error:
            log.warning("%s %s", error.value, error.remedy)
            os.replace(self.environment, aside)
            return []

    def check_room(self, room: int) -> None:
        """Raises InputError unless ``room`` bytes are free: for the last, previous, best and a new checkpoint."""
        free = shutil.disk_usage(self.path).free
        if free < room:
            self.abandon()
            remedy = f"checkpoints need {room / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB free. Make room."
            raise InputError("output", self.path, remedy)

    def abandon(self) -> None:
        """Releases the folder, and removes it if ``create`` created it and it contains no checkpoint."""
        if self.path in self._created and not self.checkpoints():
            shutil.rmtree(self.path)
        self.lock.release()
        self._remove(self._created[1:])
        self._created = []

    @staticmethod
    def _remove(folders: list[Path]) -> None:
        """Removes the empty ones of these folders, the innermost first."""
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


class WriteConfig(Callback):
    """Writes ``config.yaml`` and ``environment.json`` when training starts, after all input was checked.

    ``environment.json`` is a list with one entry for each start: the first one and every resume.

    Args:
        config: gives the configuration as YAML.
    """

    def __init__(self, config: Callable[[], str], seed: int | None):
        self.config, self.seed = config, seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = RunFolder(trainer.default_root_dir)
            starts = folder.read_starts()
            data = trainer.datamodule  # type: ignore[attr-defined]
            starts.append({**describe_environment(self.seed), "data": describe_data(data)})
            write_text(folder.environment, json.dumps(starts, indent=1, ensure_ascii=False))
            write_text(folder.config, self.config())


class RunLogger(TensorBoardLogger):
    """Writes TensorBoard events directly into the run folder, without Lightning's hparams.yaml.

    Args:
        first_step: the step that the run continues from; later events of a run that was cut off no longer count.
    """

    def __init__(self, folder: Path, first_step: int | None, on_write_error: OnError = "raise"):
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self.first_step, self.on_write_error = first_step, on_write_error

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        from glo_lightning.runs.events import EventWriter  # slow to import; --help does not wait for it

        if self._experiment is None:
            self._experiment = EventWriter(self.log_dir, self.first_step, self.on_write_error)
        return self._experiment

    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Fills TensorBoard's HPARAMS page; its metrics are those of the run's curves, so none is logged here."""
        from torch.utils.tensorboard.summary import hparams

        flat = self._sanitize_params(flatten_dict(params))
        for summary in hparams(flat, dict.fromkeys(("train/loss_epoch", "val/psnr"), 0.0)):
            self.experiment.file_writer.add_summary(summary)
