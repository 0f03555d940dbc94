"""The arguments of scripts/train.py: short forms, names of flags, errors in one line, and untrusted classes."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import LayerSync, Precision
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError, did_you_mean
from glo_lightning.generator import Generator, SkipGenerator
from glo_lightning.losses import LaplacianLoss
from glo_lightning.module import GLO
from glo_lightning.optimizers import RowSGD, WhitenedRows
from glo_lightning.parts import find_class
from glo_lightning.runs.checkpoints import Checkpoints, check_last_format
from glo_lightning.runs.folder import RunFolder

# The kinds of classes that a configuration may name.
PARTS: tuple[type, ...] = (
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    Callback,
    Logger,
    Profiler,
)
PARTS += (Strategy, Accelerator, Precision, CheckpointIO, ClusterEnvironment, LayerSync)
PARTS_NAMED = "a module, an optimizer, or a callback, logger, profiler, strategy or plugin of Lightning's"

# Whose arguments are flags, and under which name.
OWNERS: list[tuple[str, type]] = [("data", LSUNDataModule), ("model", GLO), ("checkpoint", Checkpoints)]
OWNERS += [("model.generator", SkipGenerator), ("model.loss", LaplacianLoss), ("model.latent_optimizer", WhitenedRows)]
# The classes that a part may be by their short names; any other by its path.
LOSSES = [LaplacianLoss, torch.nn.MSELoss, torch.nn.L1Loss, torch.nn.SmoothL1Loss, torch.nn.HuberLoss]
OPTIMIZERS = [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop]
CHOICES: dict[str, list[type]] = {
    "generator": [Generator, SkipGenerator],
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "latent_optimizer": [RowSGD, WhitenedRows],
}


_PART_FLAGS = [f"--model.{part}" for part in CHOICES]


def expand_arguments(arguments: list[str], default_config: Path) -> tuple[list[str], str]:
    """Adds the prefix ``trainer.`` to Trainer arguments, and puts the run's or the default configuration first.

    Returns:
        The arguments, and the name of the last configuration: the recipe.

    Raises:
        InputError: for a run whose checkpoint has another format.
    """
    trainer_arguments = set(inspect.signature(Trainer).parameters)
    expanded: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-") and expanded and expanded[-1].startswith("--data.categories"):
            flag, _, others = expanded[-1].partition("=")
            expanded[-1] = f"{flag}=[{', '.join(filter(None, (others.strip('[]'), argument.strip('[]'))))}]"
        elif expanded and expanded[-1] in ("--config", "--resume", "--data.source", *_PART_FLAGS):
            expanded[-1] += f"={argument}"
        elif name.startswith("--") and name[2:] in trainer_arguments:
            expanded.append(f"--trainer.{name[2:]}{equals}{value}")
        else:
            expanded.append("--config" + argument[2:] if name == "-c" else argument)
    expanded = [_describe_source(argument) for argument in _name_part(expanded)]
    _check_optimizer(expanded)
    configs, resumed = (_values(expanded, flag) for flag in ("--config", "--resume"))
    if resumed:
        folder = RunFolder(resumed[-1])
        check_last_format(folder, "resume")  # before the configuration: another version may have other arguments
        folder.read_config("resume")
        first = [str(folder.config)]
    else:
        first = [] if configs else [str(default_config)]
    recipe = Path(["run", *first, *configs][-1]).stem
    return [f"--config={file}" for file in first] + expanded, recipe


def _values(arguments: list[str], flag: str) -> list[str]:
    return [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{flag}=")]


def _describe_source(argument: str) -> str:
    """The argument, ``--data.source=NAME`` as a class path, so that the source's own arguments may follow."""
    flag, _, name = argument.partition("=")
    is_name = flag == "--data.source" and not name.startswith("{") and name not in ("", "null")
    return f"{flag}={json.dumps({'class_path': name})}" if is_name else argument


def _name_part(arguments: list[str]) -> list[str]:
    """The arguments, ``--model.generator.help`` with the class that is meant: the one given before it, or the usual."""
    named = list(arguments)
    for place, argument in enumerate(arguments):
        part = argument.removeprefix("--model.").removesuffix(".help")
        alone = all(following.startswith("-") for following in arguments[place + 1 : place + 2])
        if argument == f"--model.{part}.help" and part in CHOICES and alone:
            given = _values(arguments[:place], f"--model.{part}")
            named[place] += f"={given[-1] if given else CHOICES[part][0].__name__}"
    return named


def _check_optimizer(arguments: list[str]) -> None:
    """Raises InputError for an optimizer without its learning rate: the parser would keep that of the one before."""
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        rates = [other for other in arguments[position:] if other.startswith("--model.optimizer.lr")]
        if name == "--model.optimizer" and "{" not in value and not rates:
            remedy = "needs its learning rate. Add --model.optimizer.lr, 0.003 for AdamW, say"
            raise InputError("--model.optimizer", value, remedy)


def shorten_help(parser: Any) -> None:
    """Has ``--help`` name the classes that a part usually is: the parser would list every module of torch."""
    for action in parser._actions:
        part = action.dest.removeprefix("model.")
        if part in CHOICES and hasattr(action, "extra_help"):
            names = ", ".join(choice.__name__ for choice in CHOICES[part])
            action.extra_help = lambda names=names: f", {names} or the path of a class"


def flag_of(key: str) -> str:
    """The flag of an argument in an error: ``batch_size`` is ``--data.batch_size`` on the command line."""
    linked = {"seed": "--seed_everything", "num_images": "--data.num_samples"}
    if key in linked:
        return linked[key]
    if key.partition(".")[0] in CHOICES:
        return f"--model.{key}"
    for group, owner in OWNERS:
        if key.partition(".")[0] in inspect.signature(owner).parameters:
            return f"--{group}.{key}"
    own = ["accelerator", "output", "resume", "ckpt_path", "config", "on_nonfinite_loss", "prior"]
    own += ["devices", "num_nodes", "strategy", "precision", "sync_batchnorm"]
    return f"--{key}" if key in own else key


def _arguments(owner: Any) -> list[str]:
    """The arguments of a class, without those that GLO passes to its parts, such as ``latent_dim``."""
    names, is_part = list(inspect.signature(owner).parameters), owner not in (LSUNDataModule, GLO, Checkpoints, Trainer)
    return [name for name in names if not (is_part and name in inspect.signature(GLO).parameters)]


def _all_flags() -> list[str]:
    owners = (*OWNERS, ("trainer", Trainer))
    flags = [f"{group}.{name}" for group, owner in owners for name in _arguments(owner)]
    flags += [f"model.optimizer.{name}" for name in ("lr", "weight_decay", "momentum", "betas")]
    own = ["output", "resume", "ckpt_path", "on_nonfinite_loss", "prior"]
    return [*flags, *own, "config", "seed_everything", "help", "print_config"]


def one_line(message: str) -> str:
    """Turns jsonargparse's message of several lines into one: flag, value, remedy."""
    # the wordings of jsonargparse 4.39 to 4.53
    part = re.match(r'\s*Parser key "model\.(\w+)":(.*)', message, re.DOTALL)
    if part and part[1] in CHOICES:
        return _part_line(part[1], part[2])
    unknown = re.search(r"[Uu]nrecognized arguments: (\S+)|(?:nested key|option|Option|Key) '(\S+)'", message)
    if unknown:
        given = next(filter(None, unknown.groups()))
        name = given.lstrip("-").partition("=")[0]
        flags = {flag: f"--{flag}" for flag in _all_flags()}
        by_last_part = {flag.rpartition(".")[2]: shown for flag, shown in reversed(flags.items())}
        last = name.rpartition(".")[2]
        if last in by_last_part:
            return f"{given}: there is no such argument; did you mean {by_last_part[last]}?"
        meant = did_you_mean(last, by_last_part, otherwise="see --help", cutoff=0.5)
        return f"{given}: there is no such argument; {did_you_mean(name, flags, otherwise=meant)}"
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


def _part_line(part: str, details: str) -> str:
    """The same for a class that is injected, and for its arguments."""
    flag, names = f"--model.{part}", [choice.__name__ for choice in CHOICES[part]]
    path = re.search(r"class_path='([^']+)'", details)
    if unknown := re.search(r"Option '(\w+)' is not accepted", details):
        own = _arguments(_class_at(path[1])) if path else []
        meant = _sentence(did_you_mean(unknown[1], own, otherwise=f"see {flag}.help {path[1] if path else ''}"))
        return f"{flag}.{unknown[1]}: {path[1].rpartition('.')[2] if path else part} has no such argument. {meant}"
    if wrong := re.search(r'Parser key "(\w+)":(.*)', details, re.DOTALL):
        value = re.search(r"(?:Got value|Given value): (.*?)(?:\. Got value|$)", wrong[2], re.MULTILINE)
        named = re.findall(r"Expected an? (?!path|dot)(?:<class ')?([\w.]+)", wrong[2])
        kinds = " or ".join(named).replace("NoneType", "null")
        return f"{flag}.{wrong[1]} {value[1] if value else ''}: is of another type. Give {kinds}"
    if missing := re.search(r"arguments are required: ([\w, ]+)", details):
        return f"{flag} {path[1] if path else ''}: needs the arguments {missing[1]}. Give them, or another class"
    if other := re.search(r"Expected '([\w.]+)' to be a subclass of <class '(\w+)'>", details):
        return f"{flag} {other[1]}: is no {other[2]}. Give {', '.join(names)} or the path of another class"
    given = re.search(r"Expected a path but (\S+) either|Got value: (\S+)$", details)
    name = next(filter(None, given.groups())) if given else " ".join(details.split())
    meant = _sentence(did_you_mean(name, names, otherwise=f"give {', '.join(names)} or the path of a class"))
    return f"{flag} {name}: there is no such class. {meant}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _class_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def refuse_untrusted(config: Namespace, arguments: list[str]) -> None:
    """Refuses classes and functions that only a configuration names, since it may come from a stranger.

    jsonargparse instantiates every ``class_path`` in a configuration and passes on every function that it names. This
    check itself calls nothing.

    Args:
        config: the parsed configuration, with nothing instantiated yet. The class of its source is left to
            ``open_source``, which checks it before it is called.
        arguments: the command line, where the user may name any class or function.

    Raises:
        InputError: for a class of an unexpected kind, and for a function.
    """
    typed = " ".join(argument for argument in arguments if not argument.startswith("--config="))
    config = config.clone()
    config.data.source = (config.data.source or {}).get("init_args")
    for key, code in _named_code(config, ""):
        path = code if isinstance(code, str) else f"{code.__module__}.{code.__name__}"
        name = path.rpartition(".")[2]
        if name in typed:
            continue
        if isinstance(code, str):
            remedy = f"is named by a configuration, but is not {PARTS_NAMED}"
            find_class(code, PARTS, f"--{key}", f"{remedy}. To use it anyway, name it on the command line.")
        else:
            remedy = "is a function that a configuration names. To use it anyway, name it on the command line."
            raise InputError(f"--{key}", path, remedy)


def _named_code(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yields the class paths and functions in a parsed configuration, each with the key of its argument."""
    if isinstance(value, Namespace | dict):
        items = vars(value) if isinstance(value, Namespace) else value
        if isinstance(items.get("class_path"), str):
            yield key, items["class_path"]
        for name, part in items.items():
            inside = key.count(".") > 0 or name in ("class_path", "init_args")
            yield from _named_code(part, key if inside else f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _named_code(part, key)
    elif inspect.isroutine(value) or isinstance(value, type):
        yield key, value
