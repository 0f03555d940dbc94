"""What all commands on a trained run share: the arguments, the outputs, and errors in one line."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from glo_lightning.devices import Accelerator
from glo_lightning.errors import InputError, OneLineParser
from glo_lightning.explore.codes import save_codes
from glo_lightning.explore.exported import find_run
from glo_lightning.explore.outputs import check_outputs, inputs_of, named_writing, write_animation, write_png
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_whole
from glo_lightning.streams import streams_may_close

log = logging.getLogger(__name__)


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows a program's docstring as it is, and all defaults but those of flags that are off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        off = action.default is None or action.default is False or action.default == []
        return action.help if off else super()._get_help_string(action)


class CommandParser(OneLineParser):
    """A parser with the arguments of every command: RUN, --accelerator, --data.root, --output, --overwrite.

    Args:
        description: the command's docstring.
        output: default name of the output, in the run folder or beside the checkpoint; None for a command without
            --output and --overwrite.
        writes: what --output names, for --help.
        flag: another name of ``--output``.
    """

    def __init__(self, description: str | None, output: str | None = None, writes: str = "", flag: str = "--output"):
        super().__init__(description)
        self.formatter_class = HelpFormatter
        self.default_output, self.flag = output, flag
        help_ = "a run folder, a checkpoint file, an exported folder, or faces, the run that ships"
        self.add_argument("run", type=find_run, metavar="RUN", help=help_)
        self.add_argument("--accelerator", default="auto", choices=get_args(Accelerator), help="where to compute")
        self.add_argument("--data.root", dest="root", type=Path, help="the run's images, if they were moved")
        if output is None:
            return
        help_ = f"{writes} (default: {output} in the run folder, or a new name)"
        self.add_argument(flag, dest="output", type=Path, help=help_)
        self.add_argument("--overwrite", action="store_true", help="replace what is there")

    def add_picture_arguments(self, moving: bool = False) -> None:
        """Add the arguments of commands that write a picture: --codes, --tensorboard, and --animation."""
        self.add_argument("--codes", type=Path, metavar="FILE.npy", help="also write the codes")
        self.add_argument("--tensorboard", action="store_true", help="also show the picture in the run's TensorBoard")
        if moving:
            self.add_argument("--animation", type=Path, metavar="FILE.webp", help="also write an animated picture")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse like argparse, flags and other arguments in any order, and check the outputs.

        ``given`` of the result has the names of the flags that the user gave.
        """
        words = sys.argv[1:] if args is None else args
        options = self.parse_intermixed_args(words, namespace)
        flags = {word.partition("=")[0] for word in words}
        options.given = frozenset(action.dest for action in self._actions if flags.intersection(action.option_strings))
        if self.default_output is None or getattr(options, "images", True) == []:  # then it writes no output
            return options
        if options.output is None:
            run = options.run
            named = (run if run.is_dir() else run.parent) / self.default_output
            options.output = named if options.overwrite else free_name(named)
        paths = {key: getattr(options, key, None) for key in ("output", "codes", "animation")}
        outputs = {key: path for key, path in paths.items() if path is not None}
        named = {self.flag.lstrip("-") if key == "output" else key: path for key, path in outputs.items()}
        check_outputs(named, options.overwrite, inputs_of(options, outputs))
        return options

    @streams_may_close()
    def call(self, arguments: list[str], command: Callable[[argparse.Namespace], None]) -> None:
        """Run the command with these arguments; wrong input ends it with one line on standard error."""
        # Decoding in this process is intended; torch 2.15 and jsonargparse 4.5 deprecate what Lightning 2.6 still uses.
        for message in ("does not have many workers", "LeafSpec", "isinstance.treespec", "no `validation_step`"):
            warnings.filterwarnings("ignore", f".*{message}.*")
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        ours = logging.getLogger("glo_lightning")
        ours.setLevel(logging.INFO)
        ours.handlers = [logging.StreamHandler(sys.stdout)]
        try:
            command(self.parse_args(arguments))
        except InputError as error:
            flag = f"--{error.key}" if f"--{error.key}" in self._option_string_actions else error.key
            sys.stderr.write(f"{error.line(flag)}\n")
            raise SystemExit(2) from error
        except KeyboardInterrupt as stop:
            sys.stderr.write("\nstopped; nothing was written\n")
            raise SystemExit(130) from stop


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


def write_picture(
    options: argparse.Namespace,
    run: TrainedRun,
    tag: str,
    picture: Image.Image,
    codes: Tensor,
    frames: Tensor | None = None,
) -> None:
    """Write a command's picture, codes (M, D) and frames where its options say, and log their places.

    The options are those of ``add_picture_arguments``; ``tag`` is the picture's in TensorBoard, and ``frames`` are
    (M, C, H, W) in [-1, 1], see ``write_animation``.

    Raises:
        InputError: when a file cannot be written, or for TensorBoard without a run folder.
    """
    if options.tensorboard and run.folder is None:
        raise InputError("run", run.checkpoint, "has no run folder, and so no TensorBoard. Give the folder of its run.")

    def write(key: str, fill: Callable[[Path], None]) -> None:
        path = getattr(options, key)
        with named_writing(key, path):
            fill(path)
        log.info("wrote %s", path)

    write("output", lambda path: write_png(path, picture))
    if options.codes is not None:
        write("codes", lambda path: save_codes(path, codes, run.digest))
    if frames is not None and options.animation is not None:
        write("animation", lambda path: write_whole(path.absolute(), lambda file: write_animation(file, frames)))
    if options.tensorboard and run.folder is not None:
        from glo_lightning.runs.events import EventWriter  # slow to import; --help does not wait for it

        with named_writing("tensorboard", run.folder), EventWriter(run.folder) as writer:
            writer.add_image(tag, np.asarray(picture), run.global_step, dataformats="HWC")
        log.info("added %s to the TensorBoard of %s", tag, run.folder)
