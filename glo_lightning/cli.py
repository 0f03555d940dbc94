"""The command line of scripts/train.py: LightningCLI, the run folder, and errors in one line."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn, Optional

import torch
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from glo_lightning.callbacks import INITIAL_ROWS, Bar, Curves, ReconstructionGrid, SampleGrid, Throughput
from glo_lightning.data import LSUNDataModule
from glo_lightning.devices import Accelerator
from glo_lightning.errors import InputError, OnError
from glo_lightning.files import link
from glo_lightning.flags import expand_arguments, flag_of, one_line, refuse_untrusted
from glo_lightning.module import GLO
from glo_lightning.optimizers import ROW_RULES
from glo_lightning.priors.prior import make_prior
from glo_lightning.processes import agreed, is_agreed, is_first, is_loss_of_another, meet, several, together
from glo_lightning.runs.checkpoints import AtomicCheckpointIO, Checkpoints, newest_checkpoint, read_checkpoint
from glo_lightning.runs.finite_loss import FiniteLoss
from glo_lightning.runs.folder import RunFolder, RunLogger, WriteConfig
from glo_lightning.runs.launch import (
    PARENT_VARIABLE,
    Faults,
    Launch,
    check_strategy,
    check_trainer,
    end_alone,
    end_with_parent,
    is_child,
    leave_signals_to_us,
    wait_for_children,
)
from glo_lightning.training.samples import add_samples

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class TrainCLI(LightningCLI):
    """Parses the command line and makes data, model and trainer: ``trainer``, ``model``, ``datamodule``, ``folder``."""

    folder: RunFolder
    refused: InputError | None = None  # why the first of several processes cannot have the folder
    ckpt_path: Path | None = None
    finished: str | None = None

    def __init__(self, recipe: str) -> None:
        self.recipe = recipe
        try:
            super().__init__(
                GLO,
                LSUNDataModule,
                run=False,
                seed_everything_default=0,
                save_config_callback=None,
                # 25 epochs are minimal_glo's; the validation needs no try-out before the first
                trainer_defaults={"max_epochs": 25, "enable_model_summary": False, "num_sanity_val_steps": 0},
                parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            )
        except BaseException:
            if "folder" in vars(self):
                self.folder.abandon()
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--output", type=str, help="the run folder (default: runs/<recipe>/version_<k>)")
        parser.add_argument("--resume", type=str, help="a run folder: go on with the run in it")
        parser.add_argument("--ckpt_path", type=str, help="a checkpoint file to go on from, in a run folder of its own")
        parser.add_class_arguments(Checkpoints, "checkpoint")
        parser.add_argument(
            "--on_bad_loss",
            type=OnError,
            default="raise",
            help="a loss that is not finite: raise, or skip that step (looked at in every step, before it is taken)",
        )
        help_ = "fitted to the codes once the run is finished, for a picture of samples; see scripts/sample.py"
        parser.add_argument("--prior", type=Optional[str], default=None, help=help_)  # noqa: UP045
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("data.num_channels", "model.channels", apply_on="instantiate")
        parser.link_arguments("data.num_images", "model.num_images", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        config, self.launch = self.config, Launch.found()
        on_the_hub = str(config.data.source).lower() == "huggingface" and not os.path.exists(config.data.root or "")
        if config.data.root is not None and not on_the_hub:
            config.data.root = os.path.abspath(os.path.expanduser(config.data.root))
        refuse_untrusted(config, sys.argv[1:])
        self._find_folder()
        if config.resume is not None:
            self.ckpt_path = newest_checkpoint(self.folder)
        if config.ckpt_path is not None:
            self.ckpt_path = Path(config.ckpt_path)
        if config.prior is not None:
            make_prior(config.prior)
        self.global_step = 0
        if self.ckpt_path is not None:
            key = "resume" if config.ckpt_path is None else "ckpt_path"
            checkpoint = read_checkpoint(self.ckpt_path, key)
            self.global_step = checkpoint["global_step"]
            self.finished = self._is_finished(checkpoint)
            if self.finished and self.refused is not None:
                raise self.refused

    def _find_folder(self) -> None:
        """Makes and locks the run folder before anything that takes long; of several processes the first does."""
        config = self.config
        if config.resume is not None:
            self.folder = RunFolder(config.resume)
            if not self.folder.config.is_file():
                raise InputError("resume", config.resume, "holds no run (no config.yaml); give the folder of a run")
        elif config.output is not None:
            self.folder = RunFolder(config.output)
        else:
            self.folder = RunFolder(Path(config.trainer.default_root_dir or ".") / "runs" / self.recipe)
        if not self.launch.is_first or config.trainer.fast_dev_run or config.trainer.barebones:
            return  # it is another process that writes, or nobody
        try:
            if config.resume is None and config.output is None:
                self.folder = RunFolder.next_version(self.folder.path)
            else:
                self.folder.claim("output" if config.resume is None else "resume")
        except InputError as error:
            if self.launch.by is None:
                raise
            self.refused = error  # to be raised where all processes hear of it

    def _is_finished(self, checkpoint: dict[str, Any]) -> str | None:
        """What to tell of a run that has nothing left to do."""
        trainer = self.config.trainer
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs:
            return f"this run is finished after {epochs} epochs; go on with --max_epochs {2 * epochs}, say"
        if 0 <= trainer.max_steps <= checkpoint["global_step"]:
            return f"this run is finished after {trainer.max_steps} steps; go on with --max_steps or --max_epochs"
        return None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config_init.trainer
        batches = math.ceil(self.datamodule.num_images / self.datamodule.batch_size)
        kwargs["default_root_dir"] = self.folder.path
        kwargs["devices"], kwargs["num_nodes"] = self.launch.complete(given.devices, given.num_nodes)
        kwargs["plugins"] = [*_as_list(given.plugins), *self.launch.plugins]
        check_strategy(given.strategy)
        if given.barebones:
            kwargs["log_every_n_steps"] = None  # Lightning allows no interval there, and a recipe may have one
        else:
            kwargs["log_every_n_steps"] = min(given.log_every_n_steps or 50, batches)
            checkpoints = self.config_init.checkpoint
            callbacks = [
                Faults(self._tell),
                *_as_list(given.callbacks),
                Curves(),
                Throughput(),
                FiniteLoss(self.config.on_bad_loss),
            ]
            # before the pictures: config.yaml tells that a folder with pictures holds a run
            callbacks.append(WriteConfig(self._resolved(), self.config.seed_everything))
            callbacks += [ReconstructionGrid(), SampleGrid()]
            if given.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
                callbacks.append(Bar())
            if given.enable_checkpointing is not False:
                callbacks.append(checkpoints)
            kwargs["callbacks"] = callbacks
            kwargs["plugins"].append(AtomicCheckpointIO(checkpoints.on_bad_write))
            if given.logger in (None, True):
                first_step = self.global_step if self.config.resume is not None else None
                kwargs["logger"] = RunLogger(self.folder.path, first_step)
        if given.accelerator == "auto" and torch.mps.is_available() and not torch.cuda.is_available():
            log.info("Apple's GPU is left alone: sparse gradients are untried there; --accelerator mps tries them")
            kwargs["accelerator"] = "cpu"
        if given.accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.mps.is_available()):
            raise InputError("accelerator", given.accelerator, "no GPU that torch can use is here; give cpu or auto")
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise InputError("trainer", "arguments", " ".join(str(error).split())) from error
        check_trainer(trainer, self.launch, given.precision, given.sync_batchnorm)
        return trainer

    def _resolved(self) -> str:
        """The configuration as YAML, less what belongs to this one folder."""
        config = Namespace(self.config.clone())
        for key in ("config", "output", "resume", "ckpt_path"):
            config.pop(key, None)
        return self.parser.dump(config, skip_none=False)

    def fit(self) -> None:
        """Trains into the run folder; what fails before there is anything to keep leaves no folder behind.

        Raises:
            InputError: for input that turns out wrong only now.
            OSError: when the folder cannot be written.
        """
        launcher = self.trainer.strategy.launcher
        if launcher is None:
            self._fit()
            return
        if is_child() or self.launch.by == "torchrun":
            end_with_parent()
        elif self.launch.by is None:
            os.environ[PARENT_VARIABLE] = str(os.getpid())
        # Python would not hear a signal while it waits for the others, and there is but an empty folder to clean up,
        # which the next run takes.
        handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
        launcher.launch(self._meet_and_fit, handlers)

    def _meet_and_fit(self, handlers: dict[int, Any]) -> None:
        self.trainer.strategy.setup_environment()
        meet()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if several():
            leave_signals_to_us(self.trainer)
            message = "%d processes: each has its part of every batch"
            if not self.config.trainer.sync_batchnorm:
                message += (
                    " and BatchNorm normalises that alone, another recipe than one process's (see configs/README.md)"
                )
            log.info(message, self.trainer.world_size)
        try:
            self._fit()
        except BaseException as error:
            if several():
                if not is_agreed(error):
                    end_alone(self.trainer, self._tell(error))
                for number in SIGNALS:
                    signal.signal(number, signal.SIG_IGN)  # torchrun sends SIGTERM to those that leave a little later
            raise
        finally:
            wait_for_children(self.trainer)

    def _prepare_folder(self) -> None:
        """Checks the run folder, in the first process."""
        if self.refused is not None:
            raise self.refused
        if is_first() and not self.trainer.fast_dev_run and not self.trainer.barebones:  # type: ignore[attr-defined]
            self.folder.check_room(4 * _checkpoint_bytes(self.model))
            if self.config.ckpt_path is None and self.ckpt_path == self.folder.previous:
                link(self.folder.previous, self.folder.last)  # which is damaged or missing

    def _fit(self) -> None:
        handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGUSR1)}
        handlers[signal.SIGINT] = signal.getsignal(signal.SIGINT)
        try:
            with together():
                self._prepare_folder()
            log.info("run folder: %s", self.folder.path)
            self.trainer.fit(self.model, self.datamodule, ckpt_path=self.ckpt_path, weights_only=True)
        except (InputError, OSError) as error:
            if isinstance(error, InputError) or not self.folder.config.exists():
                self.folder.abandon()
            raise
        except SystemExit as stop:  # a signal, or Lightning's answer to a KeyboardInterrupt
            status = 130 if stop.code == 1 else int(stop.code or 0)
            if several() and not is_agreed(stop):
                raise
            if self.folder.config.exists():
                if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                    raise
                step = self.trainer.global_step
                _stop(f"stopped after step {step}; go on with --resume {self.folder.path}", status)
            self.folder.abandon()
            _stop("stopped before the first step; nothing was written", status)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def out_of_memory(self) -> str:
        """What takes the device's memory, and what to do."""
        data, table = self.datamodule, self.model.latents.weight
        images = f"{data.resident_bytes / 1e9:.1f} GB of images" if data.resident_bytes else "no images"
        taken = f"it holds {images} and a table of {table.nbytes / 1e9:.1f} GB"
        remedy = "lower it, or --model.width, or give --data.device_resident false"
        return f"--data.batch_size {data.batch_size}: the device is out of memory; {taken}; {remedy}"

    def _tell(self, error: BaseException) -> int:
        """Says what has ended this process in the middle of a run of several; returns the exit status."""
        if not self.folder.config.exists():
            self.folder.abandon()
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            goes_on = (
                f"go on with --resume {self.folder.path}" if self.folder.config.exists() else "nothing was written"
            )
            told: tuple[str, int] | None = f"stopped; {goes_on}", int(getattr(error, "code", 130) or 0)
        else:
            told = _explain(error, self)
        if told is None:
            traceback.print_exception(error)
            return 1
        sys.stderr.write(f"process {self.trainer.global_rank}: {told[0]}\n")
        return told[1]

    def add_samples(self) -> None:
        """Fits ``--prior`` to the codes of the finished run, unless that is done, and shows samples of it."""
        if self.config.prior is None or not self.launch.is_first or not self.folder.last.exists():
            return
        accelerator: Accelerator = "cpu" if self.config.trainer.accelerator == "cpu" else "auto"
        handlers = {number: signal.signal(number, _leave) for number in SIGNALS}
        try:
            if self.config_init.checkpoint.signal is not None:  # in the last step
                raise SystemExit(128 + self.config_init.checkpoint.signal)
            add_samples(self.folder.path, self.config.prior, accelerator, anew=not self.finished)
        except SystemExit as stop:
            line = f"stopped while the prior was fitted; the run is finished, --resume {self.folder.path} fits it"
            _stop(line, int(stop.code or 0))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def main(default_config: Path) -> None:
    """Runs the command line ``sys.argv``; without ``--config`` and ``--resume`` it takes ``default_config``."""
    _set_up_logging()
    cli = None
    handlers = {}
    if not is_child():
        handlers = {number: signal.signal(number, _end_early) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        sys.argv[1:], recipe = expand_arguments(sys.argv[1:], default_config)
        cli = TrainCLI(recipe)
        if cli.finished:
            log.info(cli.finished)
        else:
            cli.fit()
        cli.add_samples()
    except _EndedEarly as stop:
        _stop("stopped before the first step; nothing was written", int(stop.code or 0))
    except (KeyboardInterrupt, ArgumentError, InputError, FloatingPointError, RuntimeError, OSError) as error:
        told = _explain(error, cli)
        if told is None:
            raise
        _stop(*told)
    finally:
        if cli is not None:
            cli.folder.release() if cli.folder.config.exists() else cli.folder.abandon()
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _EndedEarly(SystemExit):
    """A signal that came before the training."""


def _end_early(number: int, frame: object) -> NoReturn:
    raise _EndedEarly(128 + number)


def _explain(error: BaseException, cli: TrainCLI | None) -> tuple[str, int] | None:
    """The line that tells of an error, and the exit status; None for a bug."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped before the first step; nothing was written", 130
    if isinstance(error, ArgumentError):
        return one_line(str(error)), 2
    if isinstance(error, InputError):
        return f"{flag_of(error.key)} {error.value}: {error.remedy}", 2
    if isinstance(error, FloatingPointError):
        remedy = "lower --model.generator_lr or --model.latent_lr and go on with --resume, or give --on_bad_loss skip"
        return f"{error}; {remedy}", 1
    if isinstance(error, torch.OutOfMemoryError):
        return cli.out_of_memory() if cli else str(error), 1
    if isinstance(error, OSError):
        where = error.filename or (cli and cli.folder.path) or "input"
        remedy = "make room, or give another --output"
        if cli and cli.folder.config.exists():
            kept = "the last checkpoint is as it was; " if cli.folder.last.exists() else ""
            remedy = f"{kept}make room and go on with --resume {cli.folder.path}"
        return f"{where}: {error.strerror or error}; {remedy}", 1
    if is_loss_of_another(error):
        return "lost another process, which has ended or been killed; it says why, or its launcher does", 1
    return None


def _leave(number: int, frame: object) -> NoReturn:
    """Ends the run; the answer to a signal until Checkpoints has one."""
    raise SystemExit(128 + number)


def _checkpoint_bytes(model: GLO) -> int:
    """How large a checkpoint gets, or a little less; a rule of one's own for the rows may keep as much as Adam's."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    table = model.latents.weight
    state = 8 * table.shape[1] ** 2 if model.hparams["latent_optimizer"] in ROW_RULES else 2 * weights
    if model.hparams["generator_optimizer"] == "adamw":
        state += 2 * sum(weight.nbytes for weight in model.generator.parameters())
    return weights + table[:INITIAL_ROWS].nbytes + state


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _stop(line: str, status: int) -> NoReturn:
    """Leaves with one line, which of several processes that have met the first one says."""
    if several() and not is_first():
        # Lightning's launcher takes any other status of one that it has started for a crash, and kills the first.
        raise agreed(SystemExit(0 if is_child() else status))
    if not Launch.found().is_first:
        time.sleep(3)  # the first is likely to say the same, and then the launcher ends this one
    sys.stderr.write(f"\n{line}\n" if status == 130 else f"{line}\n")
    raise agreed(SystemExit(status))


def _set_up_logging() -> None:
    """Messages go to standard output, warnings to standard error; of Lightning's own only warnings are shown."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.callbacks.model_summary").setLevel(logging.INFO)
    ours = logging.getLogger("glo_lightning")
    ours.setLevel(logging.INFO if Launch.found().is_first else logging.WARNING)
    ours.handlers = [logging.StreamHandler(sys.stdout)]
    # Decoding in the training process is a choice of the recipes; this machine's number of cores has no say in it.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Curves adds up what differs between processes; the rest is the same in all.
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")
    # Without a holdout there is nothing to validate.
    warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")
    # torch 2.15 and jsonargparse 4.5 deprecate what Lightning 2.6 still uses
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
