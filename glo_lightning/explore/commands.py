"""What the commands on a trained run share: the run as first argument, outputs that are kept, errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from glo_lightning.errors import InputError, OneLineParser
from glo_lightning.explore.pictures import enlarged
from glo_lightning.explore.saved_codes import save_codes
from glo_lightning.explore.trained_run import Accelerator, TrainedRun
from glo_lightning.files import whole_folder, write_whole

log = logging.getLogger(__name__)


class CommandParser(OneLineParser):
    """The arguments that every command on a run has: RUN, --accelerator, --data.root, --output, --overwrite.

    Args:
        description: the command's docstring.
        output: name of what it writes; into the run's folder, or beside the checkpoint, unless --output is given. None
            for a command that has no --output and no --overwrite.
        writes: what --output names, for --help.
        flag: another name of ``--output``.
    """

    def __init__(self, description: str | None, output: str | None = None, writes: str = "", flag: str = "--output"):
        super().__init__(description)
        self.default_output, self.flag = output, flag
        self.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a checkpoint file")
        self.add_argument("--accelerator", default="auto", choices=get_args(Accelerator))
        self.add_argument("--data.root", dest="root", type=Path, help="where the run's images are now, if elsewhere")
        if output is None:
            return
        self.add_argument(flag, dest="output", type=Path, help=f"{writes} (default: {output} in the run folder)")
        self.add_argument("--overwrite", action="store_true", help="replaces what is there")

    def add_picture_arguments(self, moving: bool = False) -> None:
        """Adds what the commands that write a picture have: --codes, --tensorboard, and --animation where it moves."""
        self.add_argument("--codes", type=Path, metavar="FILE.npy", help="writes the codes of the pictures as well")
        self.add_argument("--tensorboard", action="store_true", help="shows the picture in the run's TensorBoard too")
        if moving:
            self.add_argument("--animation", type=Path, metavar="FILE.webp", help="writes it as a moving picture too")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As argparse does it.

        Raises:
            InputError: for an output that is there and is not to be overwritten.
        """
        options = super().parse_args(*args, **kwargs)
        if self.default_output is None or getattr(options, "images", True) == []:  # then nothing is written there
            return options
        if options.output is None:
            run = options.run
            options.output = (run if run.is_dir() else run.parent) / self.default_output
        refuse_to_overwrite(options.output, self.flag.lstrip("-"), options.overwrite)
        for key in ("codes", "animation"):
            if getattr(options, key, None) is not None:
                refuse_to_overwrite(getattr(options, key), key, options.overwrite)
        return options

    def call(self, command: Callable[[], None]) -> None:
        """Runs the command; input that is wrong ends it with one line on standard error."""
        # Decoding in this process is meant; torch 2.15 and jsonargparse 4.5 deprecate what Lightning 2.6 still uses.
        for message in (
            ".*does not have many workers.*",
            ".*LeafSpec.*",
            ".*isinstance.treespec.*",
            ".*no `validation_step`.*",
        ):
            warnings.filterwarnings("ignore", message)
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        ours = logging.getLogger("glo_lightning")
        ours.setLevel(logging.INFO)
        ours.handlers = [logging.StreamHandler(sys.stdout)]
        try:
            command()
        except InputError as error:
            flag = f"--{error.key}" if f"--{error.key}" in self._option_string_actions else error.key
            sys.stderr.write(f"{flag} {error.value}: {error.remedy}\n")
            raise SystemExit(2) from error
        except KeyboardInterrupt as stop:
            sys.stderr.write("\nstopped; nothing was written\n")
            raise SystemExit(130) from stop


def write_picture(
    options: argparse.Namespace,
    trained: TrainedRun,
    tag: str,
    shown: Image.Image,
    codes: Tensor,
    frames: Tensor | None = None,
) -> None:
    """Writes what a command has made where its options say, and says where.

    Args:
        options: with --output, --codes, --tensorboard and, where there are frames, --animation.
        tag: of the picture in TensorBoard.
        shown: written as PNG.
        codes: (M, D), written as float32, the digest of the run beside them.
        frames: (M, 3, H, W), float in [-1, 1], of the animation, written as WebP.

    Raises:
        InputError: when a file cannot be written, or TensorBoard has no run folder to be in.
    """
    if options.tensorboard and trained.folder is None:
        remedy = "has no run folder around it, and so no TensorBoard; give the folder of its run"
        raise InputError("run", trained.checkpoint, remedy)

    def writes(fill: Callable[[Any], Any]) -> Callable[[Path], None]:
        return lambda path: write_whole(path.absolute(), fill)

    writers = {"output": (options.output, writes(lambda file: shown.save(file, "PNG", optimize=True)))}
    if options.codes is not None:
        writers["codes"] = (options.codes, lambda path: save_codes(path, codes, trained.digest))
    if frames is not None and options.animation is not None:
        writers["animation"] = (options.animation, writes(lambda file: write_animation(file, frames)))
    for key, (path, write) in writers.items():
        with named_writing(key, path):
            write(path)
        log.info("wrote %s", path)
    if options.tensorboard:
        from torch.utils.tensorboard import SummaryWriter  # a second of import that --help need not wait for

        with SummaryWriter(trained.folder) as writer:
            writer.add_image(tag, np.asarray(shown), trained.global_step, dataformats="HWC")
        log.info("added %s to the TensorBoard of %s", tag, trained.folder)


def write_animation(file: Any, frames: Tensor) -> None:
    """Writes frames (M, 3, H, W) as an endless animated WebP of twelve a second, each at least 128 pixels wide."""
    first, *others = (enlarged(frame, 128) for frame in frames)
    first.save(file, "WEBP", save_all=True, append_images=others, duration=83, loop=0, quality=80, method=6)


def refuse_to_overwrite(path: Path, key: str, overwrite: bool) -> None:
    """Raises InputError when ``path`` is a file or a folder that is there already, unless it is to be replaced."""
    if path.exists() and not overwrite:
        raise InputError(key, path, "is there already; give --overwrite to replace it, or another name")
    if not path.absolute().parent.is_dir():
        raise InputError(key, path, "its folder does not exist; make it, or give another name")


@contextlib.contextmanager
def named_writing(key: str, path: Path) -> Iterator[None]:
    """Turns a disk's refusal of ``path`` into an InputError of the flag that gave it."""
    try:
        yield
    except OSError as error:
        raise InputError(key, path, f"cannot be written ({error.strerror}); give another place") from error


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of ``--output`` once it is filled, or is removed when that fails."""
    with named_writing("output", path), whole_folder(path) as folder:
        yield folder
