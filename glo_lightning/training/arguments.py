"""The arguments of scripts/train.py: short forms, and classes that a configuration may name."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import LayerSync, Precision
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy

from glo_lightning.errors import InputError
from glo_lightning.parts import find_class
from glo_lightning.runs.checkpoints import check_last_format
from glo_lightning.runs.folder import RunFolder
from glo_lightning.training.flags import CHOICES, class_at
from glo_lightning.training.loggers import NEED_SAVE_DIR

# The kinds of classes that a configuration may name.
PARTS: tuple[type, ...] = (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
PARTS += (Callback, Logger, Profiler, Strategy, Accelerator, Precision, CheckpointIO, ClusterEnvironment, LayerSync)
PARTS_NAMED = "a module, an optimizer, or a callback, logger, profiler, strategy or plugin of Lightning's"

PATHS = ("--config", "--resume", "--ckpt_path", "--output", "--data.root")  # flags that name files and folders
_PART_FLAGS = [f"--model.{part}" for part in CHOICES]


def expand_arguments(arguments: list[str], default_config: Path) -> tuple[list[str], str]:
    """Adds the prefix ``trainer.`` to Trainer arguments, and puts the run's or the default configuration first.

    Returns:
        The arguments, and the name of the last configuration: the recipe.
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
        elif name.startswith("--") and re.split("[.+]", name[2:])[0] in trainer_arguments:  # --logger.save_dir too
            expanded.append(f"--trainer.{name[2:]}{equals}{value}")
        else:
            expanded.append("--config" + argument[2:] if name == "-c" else argument)
    expanded = [_describe_source(argument) for argument in _name_part(_with_save_dir(expanded))]
    configs, resumed = (_values(expanded, flag) for flag in ("--config", "--resume"))
    if resumed:
        folder = RunFolder(resumed[-1])
        check_last_format(folder, "resume")  # before the configuration: another version may have other arguments
        folder.read_config("resume")
        first = [str(folder.config)]
    else:
        first = [] if configs else [str(default_config)]
    recipe = Path(["run", *first, *configs][-1]).stem
    return _separate_optimizers([f"--config={file}" for file in first] + expanded), recipe


def _with_save_dir(arguments: list[str]) -> list[str]:
    """The arguments, with an empty ``save_dir`` for a logger that must have one; ``complete_loggers`` fills it in."""
    completed = []
    for place, argument in enumerate(arguments):
        completed.append(argument)
        flag, name = argument.split("=", 1) if "=" in argument else (arguments[place - 1], argument)
        if flag in ("--trainer.logger", "--trainer.logger+") and name.rpartition(".")[2] in NEED_SAVE_DIR:
            completed.append("--trainer.logger.save_dir=")
    return completed


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


def _separate_optimizers(arguments: list[str]) -> list[str]:
    """Has another class of optimizer begin with its own defaults: the parser would keep those of the one before.

    It drops what a class does not have, so torch's base class, which has no such arguments, is named in between.
    """
    separated, before = [], "SGD"
    for position, argument in enumerate(arguments):
        name, given = _optimizer_of(argument)
        if name is not None and before != (before := name.rpartition(".")[2]):
            rates = [other for other in arguments[position:] if other.startswith("--model.optimizer.lr")]
            if "lr" not in given and not rates:
                remedy = "needs its learning rate. Add --model.optimizer.lr, 0.003 for AdamW, say"
                raise InputError("--model.optimizer", name, remedy)
            separated.append("--model.optimizer=torch.optim.Optimizer")
        separated.append(argument)
    return separated


def _optimizer_of(argument: str) -> tuple[str | None, dict[str, Any]]:
    """The class and the arguments of the optimizer that an argument or its file names; None and nothing without one."""
    flag, _, text = argument.partition("=")
    if flag not in ("--model.optimizer", "--config"):
        return None, {}
    if flag == "--model.optimizer" and "{" not in text:
        return text, {}
    try:
        value = yaml.safe_load(Path(text).read_text() if flag == "--config" else text)
        value = value["model"]["optimizer"] if flag == "--config" else value
        return value["class_path"], value.get("init_args") or {}
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):  # none, or the parser says what is wrong
        return None, {}


def refuse_untrusted(config: Namespace, arguments: list[str]) -> None:
    """Refuses classes and functions that only a configuration names, since it may come from a stranger.

    jsonargparse instantiates every ``class_path`` in a configuration and passes on every function that it names. This
    check itself calls nothing. The class of the source is left to ``open_source``, which checks it before it is called.

    Args:
        config: the parsed configuration, with nothing instantiated yet.
        arguments: the command line, where the user may name any class or function.

    Raises:
        InputError: for a class of an unexpected kind, and for a function.
    """
    config = config.clone()
    config.data.source = (config.data.source or {}).get("init_args")
    typed = [
        argument.partition("=")[2] if argument.startswith("--") else argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
        if before not in PATHS and argument.partition("=")[0] not in PATHS  # a stranger names folders too
    ]
    words = {_package_and_name(word) for text in typed for word in re.findall(r"[\w.]+", text)}
    for key, code in _named_code(config, ""):
        path = code if isinstance(code, str) else f"{code.__module__}.{code.__name__}"
        if _package_and_name(path) in words:
            continue
        if isinstance(code, str):
            remedy = f"A configuration may name {PARTS_NAMED}. To use another class, name it on the command line."
            find_class(code, PARTS, f"--{key}", remedy)
        else:
            remedy = "is a function that a configuration names. To use it anyway, name it on the command line."
            raise InputError(f"--{key}", path, remedy)


def _package_and_name(path: str) -> tuple[str, str]:
    """What stays the same of a class path where a package imports its own class from one of its modules."""
    return path.partition(".")[0], path.rpartition(".")[2]


def _named_code(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yields the class paths and functions in a parsed configuration, each with the key of its argument."""
    if isinstance(value, Namespace | dict):
        items = vars(value) if isinstance(value, Namespace) else value
        if isinstance(items.get("class_path"), str):
            yield key, items["class_path"]  # which is refused before its own defaults are looked up
            items = {**items, "init_args": _without_defaults(items["class_path"], items.get("init_args"))}
        for name, part in items.items():
            inside = key.count(".") > 0 or name in ("class_path", "init_args")
            yield from _named_code(part, key if inside else f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _named_code(part, key)
    elif inspect.isroutine(value) or isinstance(value, type):
        yield key, value


def _without_defaults(path: str, arguments: Any) -> dict[str, Any]:
    """The arguments of a class that are not its own defaults, some of which are functions of its package."""
    given = vars(arguments) if isinstance(arguments, Namespace) else arguments or {}
    defaults = [parameter.default for parameter in inspect.signature(class_at(path)).parameters.values()]
    return {name: value for name, value in given.items() if not any(value is default for default in defaults)}
