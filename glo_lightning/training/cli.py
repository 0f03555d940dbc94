"""The command line of scripts/train.py: its flags, and the model, data and trainer that they create."""

from __future__ import annotations

import enum
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import SUPPRESS, Namespace
from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.sources.find import describe_source
from glo_lightning.errors import InputError, check_at_least
from glo_lightning.module import GLO
from glo_lightning.priors.prior import make_prior
from glo_lightning.progress import progress_mode, set_progress
from glo_lightning.runs.checkpoints import AtomicCheckpointIO, Checkpoints
from glo_lightning.runs.folder import RunLogger, WriteConfig
from glo_lightning.streams import streams_may_close
from glo_lightning.training.arguments import expand_arguments, refuse_untrusted
from glo_lightning.training.callbacks import default_callbacks
from glo_lightning.training.exits import (
    REPORTED,
    SIGNALS_BUT_INTERRUPT,
    AbortOnError,
    error_line,
    exit_before_fit,
    exit_with,
    handle_signals,
    hold_signals,
)
from glo_lightning.training.finite_loss import FiniteLoss
from glo_lightning.training.fit import Start, create_folder, finish, fit
from glo_lightning.training.flags import UNUSED, constructor_error, shorten_help
from glo_lightning.training.launch import Launch, check_parts, check_trainer, is_child
from glo_lightning.training.loggers import complete_loggers, keep_csv_rows
from glo_lightning.training.reports import Bar, Lines, WriteMetrics
from glo_lightning.training.signatures import OWN, TRAINER_DEFAULTS

log = logging.getLogger(__name__)

# Lightning's messages that a user has asked for.
REPORTS = ("callbacks.model_summary", "callbacks.early_stopping", "profilers.profiler", "utilities.rank_zero")


class TrainCLI(LightningCLI):
    """Parses the command line and creates ``trainer``, ``model`` and ``datamodule``; ``start`` says where to begin."""

    start: Start

    def __init__(self, recipe: str, arguments: list[str]) -> None:
        self.recipe, self.arguments = recipe, arguments
        try:
            super().__init__(
                GLO,
                LSUNDataModule,
                run=False,
                seed_everything_default=0,
                save_config_callback=None,
                auto_configure_optimizers=False,
                trainer_defaults=TRAINER_DEFAULTS,
                parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            )
        except BaseException:
            if "start" in vars(self):
                self.start.folder.abandon()
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, arguments in OWN.items():
            parser.add_argument(f"--{name}", **arguments)
        parser.add_class_arguments(Checkpoints, "checkpoint")
        for name in UNUSED:
            parser.add_argument(f"--{name}", type=type(None), default=SUPPRESS, help=SUPPRESS)
        parser.set_defaults({"model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}})
        shorten_help(parser)
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("data.num_channels", "model.channels", apply_on="instantiate")
        parser.link_arguments("data.num_images", "model.num_images", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses our arguments; sys.argv is for Lightning, which starts other processes by it."""
        self.config = parser.parse_args(self.arguments)

    def before_instantiate_classes(self) -> None:
        config = self.config
        if config.data.source is not None:
            config.data.source = describe_source(config.data.source)
        kind = "" if config.data.source is None else config.data.source["class_path"].lower()
        on_the_hub = kind == "huggingface" and not os.path.exists(config.data.root or "")
        if config.data.root is not None and not on_the_hub:
            config.data.root = os.path.abspath(os.path.expanduser(config.data.root))
            if config.data.root.encode(errors="replace").decode() != config.data.root:
                remedy = "is not UTF-8, as config.yaml has to be. Rename it, or give a link to it."
                raise InputError("root", ascii(config.data.root), remedy)
        refuse_untrusted(config, self.arguments)
        if config.model.get("num_images") is not None:
            raise InputError("model.num_images", config.model.num_images, "is read from the data. Leave it out.")
        check_parts(config.trainer)
        config.trainer = _without_objects(config.trainer)
        if config.prior is not None:
            make_prior(config.prior)
        set_progress("none" if config.trainer.enable_progress_bar is False else config.progress)
        with hold_signals():  # one that came between would leave the folder
            self.start = create_folder(config, self.recipe)
        self.start.read(config)
        self.resolved = Namespace(config.clone())
        self.first_step = self.start.global_step if config.resume is not None else None
        complete_loggers(config.trainer.logger, self.start.folder.path, self.recipe, self.first_step)

    def instantiate_classes(self) -> None:
        """Creates the model, the data and the Trainer. What a class of the command line raises is an InputError."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError) or (isinstance(error, TypeError) and "Parser key" not in str(error)):
                raise
            raise constructor_error(error, self.config.trainer) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Creates the Trainer with our callbacks, logger and checkpoints, for this process of the launcher's."""
        flags, launch = self.config_init.trainer, self.start.launch
        _check_limits(flags)
        kwargs["default_root_dir"] = self.start.folder.path
        kwargs["devices"], kwargs["num_nodes"] = launch.complete(flags.devices, flags.num_nodes)
        for plugin in _as_list(flags.plugins):
            if isinstance(plugin, CheckpointIO):
                remedy = "would replace the checkpoints that survive a kill. Leave it out."
                raise InputError("plugins", type(plugin).__name__, remedy)
        kwargs["plugins"] = list(_as_list(flags.plugins))
        if launch.by == "srun":
            kwargs["plugins"].append(SLURMEnvironment(auto_requeue=False))  # Lightning would requeue the job itself
        if flags.barebones:
            kwargs["log_every_n_steps"] = None  # Lightning refuses an interval here, and a recipe may have one
        else:
            kwargs["callbacks"] = self._callbacks(flags)
            on_write_error = self.config_init.checkpoint.on_write_error
            kwargs["plugins"].append(AtomicCheckpointIO(on_write_error))
            if flags.logger in (None, True):
                kwargs["logger"] = RunLogger(self.start.folder.path, self.first_step, on_write_error)
            else:
                for logger in _as_list(flags.logger or None):
                    keep_csv_rows(logger, self.start.global_step)
        if flags.accelerator == "auto" and torch.mps.is_available() and not torch.cuda.is_available():
            log.info("Training on the CPU: sparse gradients are untested on Apple's GPU. --accelerator mps uses it.")
            kwargs["accelerator"] = "cpu"
        if flags.accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.mps.is_available()):
            raise InputError("accelerator", flags.accelerator, "torch finds no GPU. Give cpu or auto.")
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ImportError, ValueError, TypeError) as error:
            raise InputError("trainer", "arguments", " ".join(str(error).split())) from error
        check_trainer(trainer, launch, flags.precision, flags.sync_batchnorm)
        return trainer

    def _callbacks(self, flags: Namespace) -> list[Callback]:
        """The callbacks of the command line, and ours."""
        curves, throughput, *pictures = default_callbacks(self.start.folder.path)
        callbacks = [AbortOnError(self.start.folder), *_as_list(flags.callbacks), curves, throughput]
        callbacks.append(FiniteLoss(self.config.on_nonfinite_loss))
        # before the pictures: a folder with pictures must have a config.yaml
        callbacks.append(WriteConfig(self._yaml, self.config.seed_everything))
        if not flags.fast_dev_run:  # which writes nothing
            callbacks += [*pictures, WriteMetrics(self.start.folder.path)]
        if progress_mode() != "none" and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(Bar() if progress_mode() == "bar" else Lines(self.config.prior))
        if flags.enable_checkpointing is not False:
            callbacks.append(self.config_init.checkpoint)
        return callbacks

    def _yaml(self) -> str:
        """The configuration as YAML, without the flags that belong to this folder only."""
        for key in ("config", "output", "resume", "ckpt_path", *UNUSED):
            self.resolved.pop(key, None)
        self.resolved.data.batch_size = self.datamodule.batch_size  # a BatchSizeFinder may have found another
        return self.parser.dump(self.resolved, skip_none=False)


@streams_may_close()
def main(default_config: Path, arguments: list[str] | None = None) -> None:
    """Runs a command line, by default ``sys.argv``; ``default_config`` is for one without --config and --resume."""
    _set_up_logging()
    cli = None
    with handle_signals(() if is_child() else SIGNALS_BUT_INTERRUPT, exit_before_fit):
        try:
            given = sys.argv[1:] if arguments is None else arguments
            expanded, recipe = expand_arguments(given, default_config)
            cli = TrainCLI(recipe, expanded)
            if cli.start.finished:
                log.info(cli.start.finished)
            else:
                fit(cli.start, cli.trainer, cli.model, cli.datamodule)
            loggers, stopped_by = cli.trainer.loggers, cli.config_init.checkpoint.signal
            finish(cli.start, cli.config, cli.model, cli.datamodule, loggers, stopped_by)
        except REPORTED as error:
            described = error_line(error, cli.trainer if cli else None)
            if described is None:
                raise
            exit_with(*described)
        finally:
            if cli is not None:
                folder = cli.start.folder
                folder.lock.release() if folder.config.exists() else folder.abandon()


def _without_objects(value: Any) -> Any:
    """The arguments, those that YAML cannot hold, which are defaults of Lightning's classes, by their names."""
    if isinstance(value, Namespace):
        return Namespace({key: _without_objects(part) for key, part in vars(value).items()})
    if isinstance(value, list):
        return [_without_objects(part) for part in value]
    return value.value if isinstance(value, enum.Enum) else str(value) if isinstance(value, torch.device) else value


def _check_limits(flags: Namespace) -> None:
    """Raises InputError for values of Trainer arguments that Lightning takes and that cannot work."""
    for key, least in (("accumulate_grad_batches", 1), ("check_val_every_n_epoch", 1), ("log_every_n_steps", 0)):
        if flags[key] is not None:
            check_at_least(key, flags[key], least)
    for key in ("limit_test_batches", "limit_predict_batches", "model_registry"):
        if flags[key] is not None:
            raise InputError(key, flags[key], "has no effect on training. Leave it out.")
    if flags.val_check_interval in (0, 0.0):
        raise InputError("val_check_interval", 0, "must be more than 0. Give --limit_val_batches 0 for none.")


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _set_up_logging() -> None:
    """Sends messages to standard output and warnings to standard error; of Lightning's, warnings and REPORTS."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    for name in REPORTS:
        reports = logging.getLogger(f"pytorch_lightning.{name}")
        reports.handlers, reports.propagate = handlers, False
        reports.setLevel(logging.INFO)
    # Many of Lightning's files write here; of a Timer's and a BatchSizeFinder's the user wants to know.
    reports.filters = [lambda record: record.module in ("timer", "batch_size_scaling") or record.levelno > logging.INFO]
    ours = logging.getLogger("glo_lightning")
    ours.setLevel(logging.INFO if Launch.detect().is_first else logging.WARNING)
    ours.handlers = handlers
    # CSVLogger deletes the rows of a run that it continues; keep_csv_rows has read them.
    warnings.filterwarnings("ignore", ".*Experiment logs directory.*")
    # The recipes decode in the training process on purpose, whatever the number of cores.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Curves sums what differs between ranks; the rest is equal on all.
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")
    # Curves lowers the interval then.
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    # Without held-out images there is nothing to validate.
    warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")
    # Lightning 2.6 still uses what torch 2.15 and jsonargparse 4.5 deprecate.
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
