"""The command line of scripts/train.py: its flags, and the model, data and trainer that they make."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, Optional

import torch
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError, OnError
from glo_lightning.explore.priors import make_prior
from glo_lightning.module import GLO
from glo_lightning.runs.checkpoints import AtomicCheckpointIO, Checkpoints
from glo_lightning.runs.folder import RunLogger, WriteConfig
from glo_lightning.training.arguments import expand_arguments, refuse_untrusted
from glo_lightning.training.callbacks import Bar, Curves, ReconstructionGrid, SampleGrid, Throughput
from glo_lightning.training.exits import (
    NOTHING_WRITTEN,
    AbortOnError,
    EndedEarly,
    error_line,
    leave_early,
    signals_answered,
    stop,
)
from glo_lightning.training.finite_loss import FiniteLoss
from glo_lightning.training.fit import Start, claim_folder, fit, show_samples
from glo_lightning.training.launch import Launch, check_strategy, check_trainer, is_child

log = logging.getLogger(__name__)


class TrainCLI(LightningCLI):
    """Parses the command line and makes ``trainer``, ``model`` and ``datamodule``, to be fitted from ``start`` on."""

    start: Start

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
            if "start" in vars(self):
                self.start.folder.abandon()
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--output", type=str, help="the run folder (default: runs/<recipe>/version_<k>)")
        parser.add_argument("--resume", type=str, help="a run folder: go on with the run in it")
        parser.add_argument("--ckpt_path", type=str, help="a checkpoint file to go on from, in a run folder of its own")
        parser.add_class_arguments(Checkpoints, "checkpoint")
        parser.add_argument(
            "--on_nonfinite_loss",
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
        config = self.config
        on_the_hub = str(config.data.source).lower() == "huggingface" and not os.path.exists(config.data.root or "")
        if config.data.root is not None and not on_the_hub:
            config.data.root = os.path.abspath(os.path.expanduser(config.data.root))
        refuse_untrusted(config, sys.argv[1:])
        if config.prior is not None:
            make_prior(config.prior)
        self.start = claim_folder(config, self.recipe)
        self.start.read(config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the Trainer, with what a run folder needs, in the processes that the launcher has started.

        Raises:
            InputError: for arguments that Lightning, or several processes, cannot do with.
        """
        given, launch = self.config_init.trainer, self.start.launch
        check_strategy(given.strategy)
        kwargs["default_root_dir"] = self.start.folder.path
        kwargs["devices"], kwargs["num_nodes"] = launch.complete(given.devices, given.num_nodes)
        kwargs["plugins"] = [*_as_list(given.plugins), *launch.plugins]
        if given.barebones:
            kwargs["log_every_n_steps"] = None  # Lightning allows no interval there, and a recipe may have one
        else:
            batches = math.ceil(self.datamodule.num_images / self.datamodule.batch_size)
            kwargs["log_every_n_steps"] = min(given.log_every_n_steps or 50, batches)
            kwargs["callbacks"] = self._callbacks(given)
            kwargs["plugins"].append(AtomicCheckpointIO(self.config_init.checkpoint.on_write_error))
            if given.logger in (None, True):
                first_step = self.start.global_step if self.config.resume is not None else None
                kwargs["logger"] = RunLogger(self.start.folder.path, first_step)
        if given.accelerator == "auto" and torch.mps.is_available() and not torch.cuda.is_available():
            log.info("Apple's GPU is left alone: sparse gradients are untried there; --accelerator mps tries them")
            kwargs["accelerator"] = "cpu"
        if given.accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.mps.is_available()):
            raise InputError("accelerator", given.accelerator, "no GPU that torch can use is here; give cpu or auto")
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise InputError("trainer", "arguments", " ".join(str(error).split())) from error
        check_trainer(trainer, launch, given.precision, given.sync_batchnorm)
        return trainer

    def _callbacks(self, given: Namespace) -> list[Callback]:
        """Those of the command line, and ours."""
        callbacks = [AbortOnError(self.start.folder), *_as_list(given.callbacks), Curves(), Throughput()]
        callbacks.append(FiniteLoss(self.config.on_nonfinite_loss))
        # before the pictures: config.yaml tells that a folder with pictures holds a run
        callbacks.append(WriteConfig(self._resolved(), self.config.seed_everything))
        callbacks += [ReconstructionGrid(), SampleGrid()]
        if given.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(Bar())
        if given.enable_checkpointing is not False:
            callbacks.append(self.config_init.checkpoint)
        return callbacks

    def _resolved(self) -> str:
        """The configuration as YAML, less what belongs to this one folder."""
        config = Namespace(self.config.clone())
        for key in ("config", "output", "resume", "ckpt_path"):
            config.pop(key, None)
        return self.parser.dump(config, skip_none=False)


def main(default_config: Path) -> None:
    """Runs the command line ``sys.argv``; without ``--config`` and ``--resume`` it takes ``default_config``."""
    _set_up_logging()
    cli = None
    with signals_answered(() if is_child() else (signal.SIGTERM, signal.SIGUSR1), leave_early):
        try:
            sys.argv[1:], recipe = expand_arguments(sys.argv[1:], default_config)
            cli = TrainCLI(recipe)
            if cli.start.finished:
                log.info(cli.start.finished)
            else:
                fit(cli.start, cli.trainer, cli.model, cli.datamodule)
            show_samples(cli.start, cli.config, cli.config_init.checkpoint.signal)
        except EndedEarly as end:
            stop(NOTHING_WRITTEN, int(end.code or 0))
        except (KeyboardInterrupt, ArgumentError, InputError, FloatingPointError, RuntimeError, OSError) as error:
            said = error_line(error, cli.trainer if cli else None)
            if said is None:
                raise
            stop(*said)
        finally:
            if cli is not None:
                folder = cli.start.folder
                folder.release() if folder.config.exists() else folder.abandon()


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


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
