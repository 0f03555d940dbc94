"""What the commands share: the arguments, the outputs, and errors in one line. Nothing slow is imported before them."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import itertools
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from glo_lightning.errors import InputError, OneLineParser
from glo_lightning.streams import streams_may_close

log = logging.getLogger(__name__)


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows a program's docstring as it is, and all defaults but those of flags that are off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        off = action.default is None or action.default is False or action.default == []
        return action.help if off else super()._get_help_string(action)


class CommandParser(OneLineParser):
    """A parser for glo_lightning/commands/NAME.py, whose docstring it shows and whose ``run`` it calls.

    Args:
        name: the command.
        takes_others: whether it takes the flags of another program, too: ``flags`` of the parsed arguments.
    """

    def __init__(self, name: str, takes_others: bool = False):
        super().__init__(description_of(name))
        self.prog, self.formatter_class = f"glo {name}", HelpFormatter
        self.name, self.takes_others = name, takes_others

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse like argparse, flags and other arguments in any order.

        ``given`` of the result has the names of the flags that the user gave.
        """
        words = sys.argv[1:] if args is None else list(args)
        if self.takes_others:
            options, others = self.parse_known_args(words, namespace)
            options.flags = others
        else:
            self.refuse_unknown(words)
            options = self.parse_intermixed_args(words, namespace)
        flags = {word.partition("=")[0] for word in words}
        options.given = frozenset(action.dest for action in self._actions if flags.intersection(action.option_strings))
        return options

    def complete(self, options: argparse.Namespace) -> None:
        """Check the parsed arguments, and fill in what depends on others of them."""

    @streams_may_close()
    def call(self, arguments: list[str]) -> None:
        """Run the command with these arguments; wrong input ends it with one line on standard error."""
        # Decoding in this process is intended; torch 2.15 and jsonargparse 4.5 deprecate what Lightning 2.6 still uses.
        for message in ("does not have many workers", "LeafSpec", "isinstance.treespec", "no `validation_step`"):
            warnings.filterwarnings("ignore", f".*{message}.*")
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        ours = logging.getLogger("glo_lightning")
        ours.setLevel(logging.INFO)
        ours.handlers = [logging.StreamHandler(sys.stdout)]
        try:
            options = self.parse_args(arguments)
            self.complete(options)
            importlib.import_module(f"glo_lightning.commands.{self.name}").run(options)
        except InputError as error:
            flag = f"--{error.key}" if f"--{error.key}" in self._option_string_actions else error.key
            sys.stderr.write(f"{error.line(flag)}\n")
            raise SystemExit(2) from error


def description_of(name: str) -> str:
    """The docstring of a command's module, which is not imported: it may import torch."""
    return ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""


class RunParser(CommandParser):
    """A parser with the arguments of commands on a run: RUN, --accelerator, --data.root, --output, --overwrite.

    Args:
        name: the command.
        output: default name of the output, in ``explore_folder``; None for a command without --output and --overwrite.
        writes: what --output names, for --help.
        flag: another name of ``--output``.
    """

    def __init__(self, name: str, output: str | None = None, writes: str = "", flag: str = "--output"):
        super().__init__(name)
        self.default_output, self.flag = output, flag
        self.folder: Path | None = None
        help_ = "a run folder, a checkpoint file, an exported folder, or faces, the run that ships"
        self.add_argument("run", metavar="RUN", help=help_)
        # as glo_lightning.devices.Accelerator has them
        self.add_argument("--accelerator", default="auto", choices=["auto", "cpu", "gpu"], help="where to compute")
        self.add_argument("--data.root", dest="root", type=Path, help="the run's images, if they were moved")
        if output is None:
            return
        help_ = f"{writes} (default: explore/{output} in the run folder, or a new name)"
        self.add_argument(flag, dest="output", type=Path, help=help_)
        self.add_argument("--overwrite", action="store_true", help="replace what is there")

    def add_picture_arguments(self, moving: bool = False) -> None:
        """Add the arguments of commands that write a picture: --codes, --tensorboard, and --animation."""
        self.add_argument("--codes", type=Path, metavar="FILE.npy", help="also write the codes")
        self.add_argument("--tensorboard", action="store_true", help="also show the picture in the run's TensorBoard")
        if moving:
            self.add_argument("--animation", type=Path, metavar="FILE.webp", help="also write an animated picture")

    def call(self, arguments: list[str]) -> None:
        try:
            super().call(arguments)
        finally:
            if self.folder is not None:
                with contextlib.suppress(OSError):
                    self.folder.rmdir()  # it is empty where nothing was written, else it stays

    def complete(self, options: argparse.Namespace) -> None:
        """Find the run, and check the outputs."""
        from glo_lightning.explore.exported import find_run

        options.run = run = find_run(options.run)
        if self.default_output is None or getattr(options, "images", True) == []:  # then it writes no output
            return
        if options.output is None:
            self.folder = explore_folder(run)
            named = self.folder / self.default_output
            options.output = named if options.overwrite else free_name(named)
        from glo_lightning.explore.outputs import check_outputs, inputs_of  # slow

        paths = {key: getattr(options, key, None) for key in ("output", "codes", "animation")}
        outputs = {key: path for key, path in paths.items() if path is not None}
        named_outputs = {self.flag.lstrip("-") if key == "output" else key: path for key, path in outputs.items()}
        check_outputs(named_outputs, options.overwrite, inputs_of(options, outputs))


def explore_folder(run: Path) -> Path:
    """The folder ``explore`` of a run folder, an export or beside a checkpoint, which is made if need be.

    Where that cannot be written it is the current folder, which the log says.
    """
    home = run if run.is_dir() else run.parent
    if not run.is_dir() and (home.parent / "config.yaml").is_file():
        home = home.parent  # of checkpoints/last.ckpt
    folder = home / "explore"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
    if folder.is_dir() and os.access(folder, os.W_OK):
        return folder
    log.info("%s cannot be written: the output goes to the current folder", home)
    return Path()


def free_name(path: Path) -> Path:
    """The path, or where it exists the first of ``name-2.png``, ``name-3.png``, ... that does not."""
    paths = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    return next(path for path in paths if not os.path.lexists(path))


def refuse_unused(options: argparse.Namespace, reason: str, *keys: str) -> None:
    """Raise InputError for a flag that the user gave and that has no effect; ``reason`` says why."""
    for key in keys:
        if key in options.given:
            value = getattr(options, key)
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            raise InputError(key, text, f"has no effect {reason}. Leave it out.")
