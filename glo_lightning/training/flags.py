"""The names of scripts/train.py's flags, and the parser's errors in one line."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import torch
from jsonargparse import Namespace
from pytorch_lightning import callbacks, loggers, plugins, profilers, strategies

from glo_lightning.errors import InputError, did_you_mean
from glo_lightning.generator import Generator, SkipGenerator, SpatialGenerator
from glo_lightning.losses import LaplacianLoss
from glo_lightning.optimizers import RowSGD, WhitenedRows
from glo_lightning.training.signatures import OWN, OWNERS, arguments_of, unknown_flag

# The classes that a part may be by their short names; any other by its path.
LOSSES = [LaplacianLoss, torch.nn.MSELoss, torch.nn.L1Loss, torch.nn.SmoothL1Loss, torch.nn.HuberLoss]
OPTIMIZERS = [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop]
CHOICES: dict[str, list[type]] = {
    "generator": [Generator, SkipGenerator, SpatialGenerator],
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "latent_optimizer": [RowSGD, WhitenedRows],
}
# Lightning's classes by the Trainer argument that takes them.
LIGHTNINGS = {
    "trainer.callbacks": callbacks,
    "trainer.logger": loggers,
    "trainer.plugins": plugins,
    "trainer.profiler": profilers,
    "trainer.strategy": strategies,
}

UNUSED = ("optimizer", "lr_scheduler")  # LightningCLI's, which run folders hold as null


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
    if key in (*OWN, "config", *arguments_of("trainer")):
        return f"--{key}"
    for group in OWNERS:
        if key.partition(".")[0] in arguments_of(group):
            return f"--{group}.{key}"
    return key


def one_line(message: str) -> str:
    """Turns jsonargparse's message of several lines into one: flag, value, remedy."""
    # the wordings of jsonargparse 4.39 to 4.53
    wrong = re.match(r'\s*Parser key "([\w.]+)":(.*)', message, re.DOTALL)
    if wrong and wrong[1] in (*(f"model.{part}" for part in CHOICES), *LIGHTNINGS):
        return _class_line(*wrong.groups())
    unknown = re.search(r"[Uu]nrecognized arguments: (\S+)|(?:nested key|option|Option|Key) '(\S+)'", message)
    unknown = unknown or re.match(rf'\s*(?:Parser key "|argument --)({"|".join(UNUSED)})\b', message)
    if unknown:
        return unknown_flag(next(filter(None, unknown.groups())))
    if message.startswith("Unexpected config"):
        what = " ".join(message.partition(":")[2].split()) or "nothing"
        return f"--config: a file holds {what}, and no arguments; give a YAML file such as configs/d100.yaml"
    if re.search("Problems parsing config|File does not exist", message):
        return f"--config: {' '.join(message.split())}; give a YAML file such as configs/d100.yaml"
    wrong = re.search(r'Parser key "([^"]+)":(.*)', message, re.DOTALL)
    if not wrong:
        return " ".join(message.split())
    key, details = wrong[1].replace("data.seed", "seed_everything"), wrong[2]
    value = re.search(r"(?:Got value|Given value): (.*)", details)
    expected = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[([^\]]*)\])", details)
    if not value or not expected:
        return f"--{key}: {' '.join(details.split())}"
    kinds = " or ".join((kind or choices).replace("NoneType", "null") for kind, choices in expected)
    return f"--{key} {value[1]}: give {kinds}"


def _class_line(key: str, details: str) -> str:
    """The same for an argument that takes a class, and for the arguments of the class."""
    flag, names = f"--{key}", _class_names(key)
    problem = re.search(
        r"Problem with given class_path '([^']+)':\s*(.*?)(?=\n +- |\n *Given value|\Z)", details, re.DOTALL
    )
    given_class = re.search(r"class_path='([^']+)'", details)
    path, details = problem.groups() if problem else (given_class and given_class[1], details)
    name = path.rpartition(".")[2] if path else key.rpartition(".")[2]
    if unknown := re.search(r"Option '(\w+)' is not accepted", details):
        accepted = inspect.signature(class_at(path)).parameters if path else {}
        own = [argument for argument in accepted if argument not in arguments_of("model")]
        meant = _sentence(did_you_mean(unknown[1], own, otherwise=f"see {flag}.help {path or ''}"))
        return f"{flag}.{unknown[1]}: {name} has no such argument. {meant}"
    if wrong := re.search(r'Parser key "(\w+)":(.*)', details, re.DOTALL):
        value = re.search(r"(?:Got value|Given value|path string): (.*?)(?:\. Got value|$)", wrong[2], re.MULTILINE)
        named = re.findall(r"Expected an? (?!path|dot)(?:<class ')?([\w.]+)", wrong[2])
        kinds = " or ".join(named).replace("NoneType", "null") or "the path of a function"
        return f"{flag}.{wrong[1]} {value[1] if value else ''}: is of another type. Give {kinds}"
    if missing := re.search(r"arguments are required: ([\w, ]+)", details):
        return f"{flag} {path or ''}: needs the arguments {missing[1]}. Give them, or another class"
    if problem:
        return f"{flag} {path}: cannot be made ({' '.join(details.split())}). Give another class"
    if alone := re.search(r"NestedArg\(key='(?!class_path)(\w+)'", details):
        return f"{flag}.{alone[1]}: needs a class that it belongs to. Give {flag} first"
    given = re.search(
        r"Expected '([\w.]+)' to be|(?:path but|path string:|class, but|'class_path':) '?([\w./]+)", details
    )
    given = given or re.search(r"(?:Got|Given) value: (\S+)$", details, re.MULTILINE)
    name = next(filter(None, given.groups())) if given else " ".join(details.split())
    choices = f"give {', '.join([other for other in names if other != name][:5])} or the path of a class"
    if path and (missing := re.search(r"No module named '[\w.]+'", details)):
        return f"{flag} {path}: {missing[0]}. Install its package, or {choices}"
    if name in names or "instantiatable" in details:
        return f"{flag} {name}: cannot be made: it is abstract, or its package is not here. {_sentence(choices)}"
    if other := re.search(r"subclass of (?:<class ')?(\w+)", details):
        return f"{flag} {name}: is no {other[1]}. {_sentence(choices)}"
    return f"{flag} {name}: there is no such class. {_sentence(did_you_mean(name, names, otherwise=choices))}"


def _class_names(key: str) -> list[str]:
    """The classes that an argument takes by their short names."""
    if key in LIGHTNINGS:
        return [name for name in LIGHTNINGS[key].__all__ if inspect.isclass(getattr(LIGHTNINGS[key], name))]
    return [choice.__name__ for choice in CHOICES[key.removeprefix("model.")]]


def constructor_error(error: Exception, trainer: Namespace) -> InputError:
    """The error of a class that the parser has made: what the class has raised, with the flag that names it."""
    path = re.search(r"class_path[=' ]+([\w.]+)'", str(error))
    name = path[1] if path else "arguments"
    flags = [key for key in LIGHTNINGS if name in str(trainer.get(key.rpartition(".")[2]))]
    first: BaseException = error
    while first.__cause__ or first.__context__:
        first = first.__cause__ or first.__context__  # type: ignore[assignment]
    problem = re.search(r"Problem with given class_path '[^']+':\s*(.*?)(?=\n *- |\Z)", str(error), re.DOTALL)
    said = " ".join((problem[1] if problem else str(first)).split())
    remedy = f"cannot be made ({said}). Give other arguments, or another class"
    return InputError(f"--{flags[0]}" if flags else "trainer", name, remedy)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def class_at(path: str) -> Any:
    """The class, or the function, at a path that the parser has found."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
