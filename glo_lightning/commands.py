"""What the commands on a trained run share: the run as first argument, outputs that are kept, errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from glo_lightning.checkpoints import newest_checkpoint, read_checkpoint
from glo_lightning.data import LSUNDataModule, to_unit_range
from glo_lightning.encoding import encode, starting_codes
from glo_lightning.errors import InputError
from glo_lightning.image_files import read_images
from glo_lightning.module import GLO
from glo_lightning.run_folder import RunFolder, write_atomically

log = logging.getLogger(__name__)


class TrainedRun:
    """A trained GLO and the images that it was trained on.

    Attributes:
        model: in eval mode, on the device, its weights without gradients.
        checkpoint: the file that it was loaded from.
        global_step: of the checkpoint.
        folder: where the run's ``config.yaml`` lies; None for a checkpoint that has none beside it.

    Args:
        path: a run folder, whose last checkpoint is taken, or a checkpoint file.
        accelerator: ``cpu``, ``gpu`` or ``auto``.

    Raises:
        InputError: when there is no such run, or no such accelerator.
    """

    def __init__(self, path: str | Path, accelerator: str = "auto"):
        path = Path(path).absolute()
        if path.is_dir() and not (path / "config.yaml").is_file():
            raise InputError("run", path, "holds no run (no config.yaml); give the folder of a run or a checkpoint")
        self.checkpoint = path
        if path.is_dir():
            folder = RunFolder(path)
            self.checkpoint = newest_checkpoint(folder) or folder.last
        self._state = read_checkpoint(self.checkpoint, "run")
        self.global_step: int = self._state["global_step"]
        folders = (path, path.parent, path.parent.parent)
        self.folder = next((folder for folder in folders if (folder / "config.yaml").is_file()), None)
        device = find_device(accelerator)
        model = GLO.load_from_checkpoint(self.checkpoint, map_location=device, weights_only=True)
        self.model: GLO = model.to(device).eval().requires_grad_(False)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The run's whole configuration.

        Raises:
            InputError: when the run's folder is not there.
        """
        if self.folder is None:
            remedy = "has no config.yaml beside it, which says where its images are; give the folder of its run"
            raise InputError("run", self.checkpoint, remedy)
        return yaml.safe_load((self.folder / "config.yaml").read_text())

    @functools.cached_property
    def data(self) -> LSUNDataModule:
        """The run's datamodule, checked to hold the images that the codes belong to.

        Raises:
            InputError: when the run's folder is not there, or its images are others now.
        """
        data = LSUNDataModule(**self.config["data"])
        data.load_state_dict(self._state["LSUNDataModule"])
        return data

    def images(self, rows: Iterable[int]) -> Tensor:
        """The training images of these rows, as far as there are such, (n, 3, H, W), uint8."""
        data = self.data
        return data.dataset[[row for row in rows if row < data.num_images]][0]

    def find(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The codes and the pixels of images given by the index of their row, or as a file, which is encoded.

        Args:
            names: an index such as ``17``, or the path of an image file, each.

        Returns:
            Codes (M, D) on the model's device, and uint8 images (M, 3, H, W).

        Raises:
            InputError: for an index out of range, or a file that is no image.
        """
        num_images, image_size = self.data.num_images, self.data.image_size
        images: list[Tensor] = []
        rows: dict[int, int] = {}
        for position, name in enumerate(names):
            if re.fullmatch(r"[+-]?\d+", name):
                if not 0 <= int(name) < num_images:
                    remedy = f"the run has {num_images} images; give an index from 0 to {num_images - 1}, or a file"
                    raise InputError("image", name, remedy)
                rows[position] = int(name)
                images.append(self.data.dataset[int(name)][0])
            else:
                found, _ = read_images([Path(name)], image_size)
                if len(found) > 1:
                    raise InputError("image", name, f"holds {len(found)} images; give the file of one")
                images.append(found[0])
        files = [position for position in range(len(names)) if position not in rows]
        codes = torch.empty(len(names), self.model.latents.embedding_dim, device=self.model.device)
        if rows:
            codes[list(rows)] = self.model.latents.weight[list(rows.values())]
        if files:
            targets = to_unit_range(torch.stack([images[position] for position in files]).to(codes.device))
            training = self.images(range(self.model.n_pca))
            codes[files] = encode(self.model, targets, starting_codes(self.model, training, targets))
        return codes, torch.stack(images)


def find_device(accelerator: str) -> torch.device:
    """The device of ``cpu``, ``gpu`` or ``auto``: CUDA, else Apple's, else the CPU.

    Raises:
        InputError: when there is none.
    """
    if accelerator != "cpu":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        if accelerator == "gpu":
            raise InputError("accelerator", accelerator, "no GPU that torch can use is here; give cpu or auto")
    return torch.device("cpu")


class CommandParser(argparse.ArgumentParser):
    """The arguments that every command on a run has: RUN, --accelerator, --output, --overwrite.

    Args:
        description: the command's docstring.
        output: name of what it writes; into the run's folder, or beside the checkpoint, unless --output is given.
        writes: what --output names, for --help.
        flag: another name of ``--output``.
    """

    def __init__(self, description: str | None, output: str, writes: str, flag: str = "--output"):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)
        self.default_output, self.flag = output, flag
        self.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a checkpoint file")
        self.add_argument("--accelerator", default="auto", choices=["auto", "cpu", "gpu"])
        self.add_argument(flag, dest="output", type=Path, help=f"{writes} (default: {output} in the run folder)")
        self.add_argument("--overwrite", action="store_true", help="replaces what is there")

    def add_picture_arguments(self) -> None:
        """Adds what the commands that write a picture have: --codes, --tensorboard."""
        self.add_argument("--codes", type=Path, metavar="FILE.npy", help="writes the codes of the pictures as well")
        self.add_argument("--tensorboard", action="store_true", help="shows the picture in the run's TensorBoard too")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As argparse does it.

        Raises:
            InputError: for an output that is there and is not to be overwritten.
        """
        options = super().parse_args(*args, **kwargs)
        if options.output is None:
            run = options.run
            options.output = (run if run.is_dir() else run.parent) / self.default_output
        refuse_to_overwrite(options.output, self.flag.lstrip("-"), options.overwrite)
        if getattr(options, "codes", None) is not None:
            refuse_to_overwrite(options.codes, "codes", options.overwrite)
        return options

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{message}; see --help\n")
        raise SystemExit(2)

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
    options: argparse.Namespace, trained: TrainedRun, tag: str, shown: Image.Image, codes: Tensor
) -> None:
    """Writes what a command has made where its options say, and says where.

    Args:
        options: with --output, --codes and --tensorboard.
        tag: of the picture in TensorBoard.
        shown: written as PNG.
        codes: (M, D), written as float32.

    Raises:
        InputError: when a file cannot be written, or TensorBoard has no run folder to be in.
    """
    if options.tensorboard and trained.folder is None:
        remedy = "has no run folder around it, and so no TensorBoard; give the folder of its run"
        raise InputError("run", trained.checkpoint, remedy)
    writers = {"output": (options.output, lambda file: shown.save(file, "PNG", optimize=True))}
    if options.codes is not None:
        writers["codes"] = (options.codes, lambda file: np.save(file, codes.cpu().numpy(), allow_pickle=False))
    for key, (path, write) in writers.items():
        try:
            write_atomically(path.absolute(), write)
        except OSError as error:
            raise InputError(key, path, f"cannot be written ({error.strerror}); give another place") from error
        log.info("wrote %s", path)
    if options.tensorboard:
        from torch.utils.tensorboard import SummaryWriter  # a second of import that --help need not wait for

        with SummaryWriter(trained.folder) as writer:
            writer.add_image(tag, np.asarray(shown), trained.global_step, dataformats="HWC")
        log.info("added %s to the TensorBoard of %s", tag, trained.folder)


def refuse_to_overwrite(path: Path, key: str, overwrite: bool) -> None:
    """Raises InputError when ``path`` is a file or a folder that is there already, unless it is to be replaced."""
    if path.exists() and not overwrite:
        raise InputError(key, path, "is there already; give --overwrite to replace it, or another name")
    if not path.absolute().parent.is_dir():
        raise InputError(key, path, "its folder does not exist; make it, or give another name")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of ``path`` once it is filled, or is removed when that fails."""
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        raise InputError("output", path, f"cannot be written ({error.strerror}); give another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
