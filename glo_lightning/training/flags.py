"""The names of scripts/train.py's flags, and the parser's errors in one line."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import torch
from pytorch_lightning import Trainer

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import did_you_mean
from glo_lightning.generator import Generator, SkipGenerator
from glo_lightning.losses import LaplacianLoss
from glo_lightning.module import GLO
from glo_lightning.optimizers import RowSGD, WhitenedRows
from glo_lightning.runs.checkpoints import Checkpoints

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
    unknown = unknown or re.match(rf'\s*(?:Parser key "|argument --)({"|".join(UNUSED)})\b', message)
    if unknown:
        given = next(filter(None, unknown.groups()))
        name = given.lstrip("-").partition("=")[0]
        flags = {flag: f"--{flag}" for flag in _all_flags()}
        by_last_part = {flag.rpartition(".")[2]: shown for flag, shown in reversed(flags.items())}
        last = name.rpartition(".")[2]
        part, _, argument = last.partition("_")
        if last not in by_last_part and {part, argument} <= by_last_part.keys():
            last = argument  # of generator_lr
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
