"""The command line of scripts/train.py: LightningCLI, the run folder, and errors in one line."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import math
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from glo_lightning.callbacks import Curves, ReconstructionGrid, SampleGrid, Throughput
from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError, OnError
from glo_lightning.files import link
from glo_lightning.module import GLO
from glo_lightning.retired import GONE, LAST_WITH_THEM, current_config, lost_option
from glo_lightning.runs.checkpoints import AtomicCheckpointIO, Checkpoints, newest_checkpoint, read_checkpoint
from glo_lightning.runs.finite_loss import FiniteLoss
from glo_lightning.runs.folder import RunFolder, RunLogger, WriteConfig

log = logging.getLogger(__name__)

# How the processes that DDP starts, which run the same command, learn the folder that the first one has claimed.
FOLDER_VARIABLE = "GLO_LIGHTNING_RUN_FOLDER"

# Whose arguments are flags, and under which name.
OWNERS = (("data", LSUNDataModule), ("model", GLO), ("checkpoint", Checkpoints))


class TrainCLI(LightningCLI):
    """Parses the command line and makes data, model and trainer: ``trainer``, ``model``, ``datamodule``, ``folder``."""

    folder: RunFolder
    ckpt_path: Path | None = None
    finished: str | None = None

    def __init__(self, recipe: str) -> None:
        self.recipe = recipe
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
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("data.num_images", "model.num_images", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        config = self.config
        if config.data.root is not None:
            config.data.root = os.path.abspath(os.path.expanduser(config.data.root))
        if config.resume is not None:
            self.folder = RunFolder(config.resume)
            if not self.folder.config.is_file():
                raise InputError("resume", config.resume, "holds no run (no config.yaml); give the folder of a run")
            self.ckpt_path = newest_checkpoint(self.folder)
        elif _rank() != 0:
            self.folder = RunFolder(os.environ[FOLDER_VARIABLE])
        elif config.output is not None:
            self.folder = RunFolder(config.output)
            if self.folder.config.exists():
                remedy = f"holds a run; go on with it by --resume {config.output}, or give another folder"
                raise InputError("output", config.output, remedy)
        else:
            runs = Path(config.trainer.default_root_dir or ".") / "runs"
            self.folder = RunFolder.next_version(runs / self.recipe)
        if config.ckpt_path is not None:
            self.ckpt_path = Path(config.ckpt_path)
        self.global_step = 0
        if self.ckpt_path is not None:
            key = "resume" if config.ckpt_path is None else "ckpt_path"
            checkpoint = read_checkpoint(self.ckpt_path, key)
            _refuse_lost_options(checkpoint["hyper_parameters"], key, self.ckpt_path)
            self.global_step = checkpoint["global_step"]
            self.finished = self._is_finished(checkpoint)

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
        kwargs["use_distributed_sampler"] = False  # our sampler shares each batch among the processes
        if given.barebones:
            kwargs["log_every_n_steps"] = None  # Lightning allows no interval there, and a recipe may have one
        else:
            kwargs["log_every_n_steps"] = min(given.log_every_n_steps or 50, batches)
            checkpoints = self.config_init.checkpoint
            callbacks = [*_as_list(given.callbacks), Curves(), Throughput(), FiniteLoss(self.config.on_bad_loss)]
            callbacks += [ReconstructionGrid(), SampleGrid()]
            callbacks.append(WriteConfig(self._resolved(), self.config.seed_everything))
            if given.enable_checkpointing is not False:
                callbacks.append(checkpoints)
            kwargs["callbacks"] = callbacks
            kwargs["plugins"] = [*_as_list(given.plugins), AtomicCheckpointIO(checkpoints.on_bad_write)]
            if given.logger in (None, True):
                first_step = self.global_step if self.config.resume is not None else None
                kwargs["logger"] = RunLogger(self.folder.path, first_step)
        if given.accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.mps.is_available()):
            raise InputError("accelerator", given.accelerator, "no GPU that torch can use is here; give cpu or auto")
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise InputError("trainer", "arguments", " ".join(str(error).split())) from error

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
        if _rank() == 0 and not self.trainer.fast_dev_run and not self.trainer.barebones:  # type: ignore[attr-defined]
            self.folder.claim(room=4 * sum(tensor.nbytes for tensor in self.model.state_dict().values()))
            os.environ[FOLDER_VARIABLE] = str(self.folder.path)
            if self.config.ckpt_path is None and self.ckpt_path == self.folder.previous:
                link(self.folder.previous, self.folder.last)  # which is damaged or missing
        log.info("run folder: %s", self.folder.path)
        handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGUSR1)}
        try:
            self.trainer.fit(self.model, self.datamodule, ckpt_path=self.ckpt_path, weights_only=True)
        except (InputError, OSError) as error:
            if isinstance(error, InputError) or not self.folder.config.exists():
                self.folder.abandon()
            raise
        except SystemExit as stop:  # a signal, or Lightning's answer to a KeyboardInterrupt
            if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                raise
            status = 130 if stop.code == 1 else int(stop.code or 0)
            if self.folder.config.exists():
                step = self.trainer.global_step
                _stop(f"stopped after step {step}; go on with --resume {self.folder.path}", status)
            self.folder.abandon()
            _stop("stopped before the first step; nothing was written", status)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def main(default_config: Path) -> None:
    """Runs the command line ``sys.argv``; without ``--config`` and ``--resume`` it takes ``default_config``."""
    _set_up_logging()
    cli = None
    try:
        sys.argv[1:], recipe = expand_arguments(sys.argv[1:], default_config)
        cli = TrainCLI(recipe)
        if cli.finished:
            log.info(cli.finished)
        else:
            cli.fit()
    except KeyboardInterrupt:
        _stop("stopped before the first step; nothing was written", status=130)
    except ArgumentError as error:
        _stop(_one_line(str(error)))
    except InputError as error:
        _stop(f"{_flag(error.key)} {error.value}: {error.remedy}")
    except FloatingPointError as error:
        remedy = "lower --model.generator_lr or --model.latent_lr and go on with --resume, or give --on_bad_loss skip"
        _stop(f"{error}; {remedy}", 1)
    except OSError as error:
        where = error.filename or (cli and cli.folder.path) or "input"
        remedy = "make room, or give another --output"
        if cli and cli.folder.config.exists():
            kept = "the last checkpoint is as it was; " if cli.folder.last.exists() else ""
            remedy = f"{kept}make room and go on with --resume {cli.folder.path}"
        _stop(f"{where}: {error.strerror or error}; {remedy}", 1)


def expand_arguments(arguments: list[str], default_config: Path) -> tuple[list[str], str]:
    """Prefixes Trainer arguments with ``trainer.``, and puts the run's or the default configuration first.

    Returns:
        The arguments, with the content of configurations that an older version wrote for their names, and the name of
        the last configuration: the recipe.

    Raises:
        InputError: for a configuration of a run with an option that GLO no longer has.
    """
    trainer_arguments = set(inspect.signature(Trainer).parameters)
    expanded: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if expanded and expanded[-1] in ("--config", "--resume"):
            expanded[-1] += f"={argument}"
        elif name.startswith("--") and name[2:] in trainer_arguments:
            expanded.append(f"--trainer.{name[2:]}{equals}{value}")
        else:
            expanded.append("--config" + argument[2:] if name == "-c" else argument)
    configs, resumed = (_values(expanded, flag) for flag in ("--config", "--resume"))
    if resumed:
        config = RunFolder(resumed[-1]).config
        first = [str(config)] if config.is_file() else []
    else:
        first = [] if configs else [str(default_config)]
    recipe = Path([*first, *configs, "run"][-1]).stem
    expanded = [f"--config={file}" for file in first] + expanded
    return [_current(argument, "resume" if resumed else "config") for argument in expanded], recipe


def _values(arguments: list[str], flag: str) -> list[str]:
    return [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{flag}=")]


def _current(argument: str, key: str) -> str:
    """The argument, or, for a configuration that an older version wrote, its content as it would be written now."""
    name, _, file = argument.partition("=")
    if name != "--config" or not Path(file).is_file():
        return argument
    try:
        config = yaml.safe_load(Path(file).read_text())
    except (OSError, ValueError, yaml.YAMLError):  # the parser names it
        return argument
    if not (isinstance(config, dict) and isinstance(config.get("model", {}), dict)):
        return argument
    _refuse_lost_options(config.get("model", {}), key, Path(file))
    current = current_config(config)
    return argument if current == config else f"--config={json.dumps(current)}"


def _refuse_lost_options(arguments: dict[str, Any], key: str, where: Path) -> None:
    """Raises InputError for the arguments of an old run whose algorithm GLO no longer has."""
    lost = lost_option(arguments)
    if lost is not None:
        remedy = (
            f"was made with {lost[0]} {lost[1]}, which GLO no longer has; going on with another algorithm is no resume"
        )
        raise InputError(key, where, f"{remedy}: the last version that can is {LAST_WITH_THEM}")


def _leave(number: int, frame: object) -> NoReturn:
    """Ends the run; the answer to a signal until Checkpoints has one."""
    raise SystemExit(128 + number)


def _rank() -> int:
    """0, or which of the processes that DDP has started this one is."""
    return int(os.environ.get("LOCAL_RANK", 0))


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _flag(key: str) -> str:
    """The flag of a class's argument: what an error calls ``batch_size`` the user knows as ``--data.batch_size``."""
    linked = {"seed": "--seed_everything", "num_images": "--data.num_samples"}
    if key in linked:
        return linked[key]
    for group, owner in OWNERS:
        if key in inspect.signature(owner).parameters:
            return f"--{group}.{key}"
    own = ("accelerator", "output", "resume", "ckpt_path", "config", "on_bad_loss")
    return f"--{key}" if key in own else key


def _all_flags() -> list[str]:
    owners = (*OWNERS, ("trainer", Trainer))
    flags = [f"{group}.{name}" for group, owner in owners for name in inspect.signature(owner).parameters]
    own = ["output", "resume", "ckpt_path", "on_bad_loss"]
    return [*flags, *own, "config", "seed_everything", "help", "print_config"]


def _one_line(message: str) -> str:
    """Turns jsonargparse's message, of several lines, into: flag, value, remedy."""
    # the wordings of jsonargparse 4.39 to 4.53
    unknown = re.search(r"[Uu]nrecognized arguments: (\S+)|(?:nested key|option|Option|Key) '(\S+)'", message)
    if unknown:
        given = next(filter(None, unknown.groups()))
        name = given.lstrip("-").partition("=")[0]
        if name in GONE:
            return f"{given}: there is no such argument any more: {GONE[name]}"
        flags = _all_flags()
        by_last_part = {flag.rpartition(".")[2]: flag for flag in flags}
        close = difflib.get_close_matches(name, flags, n=1) or [
            by_last_part[part] for part in difflib.get_close_matches(name.rpartition(".")[2], by_last_part, n=1)
        ]
        meant = f"did you mean --{close[0]}?" if close else "see --help"
        return f"{given}: there is no such argument; {meant}"
    if re.search("Problems parsing config|File does not exist", message):
        return f"--config: {' '.join(message.split())}; give a YAML file such as configs/d100.yaml"
    wrong = re.search(r'Parser key "([^"]+)":(.*)', message, re.DOTALL)
    if not wrong:
        return " ".join(message.split())
    key, details = wrong.groups()
    value = re.search(r"(?:Got value|Given value): (.*)", details)
    expected = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[([^\]]*)\])", details)
    if not value or not expected:
        return f"--{key}: {' '.join(details.split())}"
    kinds = " or ".join((kind or choices).replace("NoneType", "null") for kind, choices in expected)
    return f"--{key} {value[1]}: give {kinds}"


def _stop(line: str, status: int = 2) -> NoReturn:
    sys.stderr.write(f"\n{line}\n" if status == 130 else f"{line}\n")
    raise SystemExit(status)


def _set_up_logging() -> None:
    """Messages go to standard output, warnings to standard error; of Lightning's own only warnings are shown."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.callbacks.model_summary").setLevel(logging.INFO)
    ours = logging.getLogger("glo_lightning")
    ours.setLevel(logging.INFO if _rank() == 0 else logging.WARNING)
    ours.handlers = [logging.StreamHandler(sys.stdout)]
    # Decoding in the training process is a choice of the recipes; this machine's number of cores has no say in it.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Without a holdout there is nothing to validate.
    warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")
    # torch 2.15 and jsonargparse 4.5 deprecate what Lightning 2.6 still uses
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
