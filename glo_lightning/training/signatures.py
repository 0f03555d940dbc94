"""The flags of scripts/train.py, read from the source of the classes whose arguments they are.

To import these classes takes seconds, for torch and Lightning. ``--help`` and a mistyped flag need not wait for that.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional

import docstring_parser  # which comes with jsonargparse

from glo_lightning.errors import OneLineParser, OnError, did_you_mean
from glo_lightning.progress import ProgressMode

# Whose arguments are flags, and under which name.
OWNERS: dict[str, tuple[str, ...]] = {
    "data": ("glo_lightning/data/datamodule.py", "LSUNDataModule"),
    "model": ("glo_lightning/module.py", "GLO"),
    "checkpoint": ("glo_lightning/runs/checkpoints.py", "Checkpoints"),
    "model.generator": ("glo_lightning/generator.py", "SkipGenerator", "SpatialGenerator"),
    "model.loss": ("glo_lightning/losses.py", "LaplacianLoss"),
    "model.latent_optimizer": ("glo_lightning/optimizers.py", "WhitenedRows"),
    "trainer": ("pytorch_lightning/trainer/trainer.py", "Trainer"),
}
GROUPS = ("data", "model", "checkpoint", "trainer")
PARTS = ("model.generator", "model.loss", "model.optimizer", "model.latent_optimizer")
# minimal_glo trains 25 epochs; validation needs no sanity check
TRAINER_DEFAULTS = {"max_epochs": 25, "enable_model_summary": False, "num_sanity_val_steps": 0}
OWN: dict[str, dict[str, Any]] = {
    "output": {"type": str, "help": "run folder (default: runs/<recipe>/version_<k>)"},
    "resume": {"type": str, "help": "run folder of a run to continue"},
    "ckpt_path": {"type": str, "help": "checkpoint file to continue from, in a new run folder"},
    "on_nonfinite_loss": {
        "type": OnError,
        "default": "raise",
        "help": "for a loss that is not finite: raise an error, or skip the step",
    },
    "prior": {
        "type": Optional[str],  # noqa: UP045
        "default": None,
        "help": "prior to fit to the codes of the finished run, for a picture of samples; see scripts/sample.py",
    },
    "progress": {
        "type": ProgressMode,
        "default": "auto",
        "help": "progress as a bar or as lines; auto is a bar in a terminal, else lines",
    },
}
LIGHTNINGS = {
    "config": "YAML file of arguments, or -c; of several the later win",
    "print_config": "print the whole configuration, and end",
    "seed_everything": "seed of all random numbers (default: 0)",
}
# Arguments that follow other flags.
LINKED = ("data.seed", "model.image_size", "model.channels", "model.num_images")


class Argument(NamedTuple):
    """An argument of a class: its type and default as the source has them, and what its docstring says."""

    type: str
    default: str
    help: str


@functools.cache
def arguments_of(group: str) -> dict[str, Argument]:
    """The arguments of the classes in OWNERS."""
    file, *names = OWNERS[group]
    package, _, module = file.partition("/")
    (folder,) = importlib.util.find_spec(package).submodule_search_locations  # type: ignore[union-attr, misc]
    classes = ast.parse((Path(folder) / module).read_text()).body
    owners = [node for node in classes if isinstance(node, ast.ClassDef) and node.name in names]
    return {name: argument for owner in owners for name, argument in _arguments(owner).items()}


def _arguments(owner: ast.ClassDef) -> dict[str, Argument]:
    init = next(node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    docs = [docstring_parser.parse(ast.get_docstring(node) or "") for node in (owner, init)]
    texts = {entry.arg_name: entry.description or "" for doc in docs for entry in doc.params}
    names = [*init.args.args[1:], *init.args.kwonlyargs]
    defaults: list[ast.expr | None] = [*init.args.defaults, *init.args.kw_defaults]
    defaults = [*[None] * (len(names) - len(defaults)), *defaults]
    arguments = {}
    for argument, default in zip(names, defaults, strict=True):
        kind, value = (ast.unparse(node) if node else "" for node in (argument.annotation, default))
        arguments[argument.arg] = Argument(kind, value, texts.get(argument.arg, ""))
    return arguments


def flags_of(group: str) -> list[str]:
    """The flags of a class, without arguments that GLO passes to its parts, such as ``latent_dim``."""
    passed = arguments_of("model") if group in PARTS else {}
    return [f"{group}.{name}" for name in arguments_of(group) if name not in passed]


def all_flags() -> list[str]:
    """Every flag, without its dashes; of classes that may be others those of the usual one."""
    flags = [flag for group in OWNERS for flag in flags_of(group)]
    flags += [f"model.optimizer.{name}" for name in ("lr", "weight_decay", "momentum", "betas")]
    return [*flags, *OWN, *LIGHTNINGS, "help"]


def unknown_flag(given: str) -> str:
    """The line for a flag that does not exist: it names the one that was probably meant."""
    name = given.lstrip("-").partition("=")[0]
    flags = {flag: f"--{flag}" for flag in all_flags()}
    by_last_part = {flag.rpartition(".")[2]: shown for flag, shown in reversed(flags.items())}
    last = name.rpartition(".")[2]
    part, _, argument = last.partition("_")
    if last not in by_last_part and {part, argument} <= by_last_part.keys():
        last = argument  # of generator_lr
    if last in by_last_part:
        return f"{given}: there is no such argument; did you mean {by_last_part[last]}?"
    meant = did_you_mean(last, by_last_part, otherwise="see --help", cutoff=0.5)
    return f"{given}: there is no such argument; {did_you_mean(name, flags, otherwise=meant)}"


def find_unknown(words: Iterable[str]) -> str | None:
    """The first word that can be no flag. Those of classes that were chosen are left to their classes."""
    words = list(words)
    of_classes = {*PARTS, "data.source", *arguments_of("trainer"), *flags_of("trainer")}  # what may be a class
    known = {*all_flags(), *of_classes, *LINKED, *GROUPS, *(f"{part}.help" for part in PARTS)}
    given = {".".join(word.partition("=")[0].split(".")[:3]) for word in words}
    if not given & {"-c", "--config", "--resume"}:  # of the usual classes all arguments are known
        for part in PARTS:
            choosing = {f"--{part}", *(f"--{part}.{name}" for name in ("class_path", "init_args", "dict_kwargs"))}
            if part in OWNERS and not given & choosing:
                of_classes.remove(part)
    for word in (word for word in words if word.startswith("--") and word != "--"):
        name = word[2:].partition("=")[0].rstrip("+")
        owner = ".".join(name.split(".")[: 1 if name.split(".")[0] in of_classes else 2])
        if name not in known and owner not in of_classes:
            return word
    return None


def help_parser(description: str | None) -> OneLineParser:
    """A parser with all flags, for ``--help`` and the completion of a shell; it parses nothing."""
    parser = OneLineParser(description)
    parser.prog = "glo train"
    for name, text in LIGHTNINGS.items():
        parser.add_argument(f"--{name}", help=text)
    for name, about in OWN.items():
        default = f" (default: {about['default']})" if about.get("default") else ""
        parser.add_argument(f"--{name}", help=about["help"] + default)
    for group in GROUPS:
        flags = parser.add_argument_group(OWNERS[group][1])
        for name, (kind, default, text) in arguments_of(group).items():
            if f"{group}.{name}" in LINKED:
                continue
            default = str(TRAINER_DEFAULTS.get(name, default)) if group == "trainer" else default
            text = f"{' '.join(text.split())} (type: {kind}, default: {default})".replace("%", "%%")
            flags.add_argument(f"--{group}.{name}", metavar=name.upper(), help=text.lstrip())
            if f"{group}.{name}" in PARTS:
                flags.add_argument(f"--{group}.{name}.help", metavar="CLASS", help="show the arguments of a class")
    return parser
