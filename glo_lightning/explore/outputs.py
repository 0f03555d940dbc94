"""Outputs of commands and of Python: their files and folders are marked, and no others are ever replaced."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from torch import Tensor

from glo_lightning.errors import DamagedError, InputError, decoding
from glo_lightning.explore.codes import about_file, save_codes
from glo_lightning.explore.pictures import enlarge
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import MARK, unlisted, whole_folder, write_whole

log = logging.getLogger(__name__)

HTML_MARK = f'<meta name="generator" content="{MARK}">'


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG, marked as a command's output."""
    write_whole(path.absolute(), lambda file: picture.save(file, "PNG", optimize=True, exif=_mark()))


@dataclasses.dataclass(eq=False, repr=False)
class Result:
    """What was made of a run; a notebook shows its picture.

    Attributes:
        picture: the images, laid out and explained.
        codes: (M, D), on the run's device.
        images: (M, C, H, W) in [-1, 1], of these codes, on the CPU.
    """

    picture: Image.Image
    codes: Tensor
    images: Tensor

    def save(self, path: str | Path) -> None:
        """Write the picture as PNG. A file that is there is replaced if a command or this method wrote it.

        Raises:
            InputError: for another file that is there, and a path that does not end in ``.png`` or cannot be written.
        """
        if Path(path).suffix != ".png":
            raise InputError("path", path, "the picture is written as PNG. Give a name that ends in .png.")
        check_outputs({"path": Path(path)}, overwrite=True)
        with named_writing("path", Path(path)):
            write_png(Path(path), self.picture)

    def __repr__(self) -> str:
        return f"Result: {len(self.codes)} codes and their images"

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.picture.save(file, "PNG")
        return file.getvalue()


def write_animation(file: Any, frames: Tensor) -> None:
    """Write frames (M, C, H, W) as an endless animated WebP, twelve a second, at least 128 pixels wide."""
    first, *others = (enlarge(frame, 128) for frame in frames)
    animation: dict[str, Any] = {"save_all": True, "append_images": others, "duration": 83, "loop": 0}
    first.save(file, "WEBP", quality=80, method=6, exif=_mark(), **animation)


def _mark() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = MARK
    return exif


def is_own(path: Path) -> bool:
    """Whether a command wrote the file, or everything in the folder."""
    if path.is_dir():
        return unlisted(path) is None
    with contextlib.suppress(DamagedError), decoding("output", path, ""):
        if path.suffix == ".npy":
            return is_own(about_file(path))
        if path.suffix == ".json":
            return json.loads(path.read_bytes())["written_by"] == MARK
        if path.suffix == ".html":
            with open(path, "rb") as file:
                return HTML_MARK.encode() in file.read(1000)
        with Image.open(path, formats=["PNG", "WEBP"]) as image:
            return image.getexif().get(ExifTags.Base.Software) == MARK
    return False


def check_outputs(outputs: Mapping[str, Path], overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise InputError for an output that exists, unless it may be overwritten and a command wrote it.

    Args:
        outputs: the files and folders to write, by their flags.
        overwrite: whether commands' own may be replaced.
        inputs: the files and folders that the command reads; they are never replaced.
    """
    read = [Path(os.path.realpath(path)) for path in inputs]
    for key, path in outputs.items():
        real = Path(os.path.realpath(path))
        if any(real in (place, *place.parents) for place in read):
            raise InputError(key, path, "is an input of the command, or holds one. Give another name.")
        if sum(os.path.realpath(other) == os.fspath(real) for other in outputs.values()) > 1:
            raise InputError(key, path, "is given for two outputs. Give another name.")
        if not path.absolute().parent.is_dir():
            raise InputError(key, path, "its folder does not exist. Make it, or give another name.")
        written = [path, about_file(path)] if path.suffix == ".npy" else [path]
        for there in filter(os.path.lexists, written):
            if not is_own(there):
                foreign = unlisted(there) if there.is_dir() else None
                what = f"it holds {foreign.relative_to(there)}" if foreign else "it was not written by this command"
                raise InputError(key, there, f"exists and is not replaced: {what}. Give another name.")
            if not overwrite:
                raise InputError(key, there, "exists. Give --overwrite to replace it, or another name.")


def inputs_of(options: argparse.Namespace, outputs: Iterable[str]) -> list[Path]:
    """The files and folders that arguments name, without the outputs."""
    values: list[Any] = [value for key, value in vars(options).items() if key not in outputs]
    values = [part for value in values for part in (value if isinstance(value, list) else [value])]
    values = [part for value in values for part in (value.values() if isinstance(value, dict) else [value])]
    return [Path(value) for value in values if isinstance(value, str | Path) and str(value) and os.path.exists(value)]


@contextlib.contextmanager
def named_writing(key: str, path: Path) -> Iterator[None]:
    """Turn an OSError of writing ``path`` into an InputError that names its flag."""
    try:
        yield
    except FileExistsError as error:
        raise InputError(key, error.filename or path, "exists. Give another name.") from error
    except OSError as error:
        raise InputError(key, path, f"cannot be written ({error.strerror}). Give another place.") from error


@contextlib.contextmanager
def output_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes ``--output`` once it is filled, or is removed when that fails."""
    with named_writing("output", path), whole_folder(path, replace=overwrite, listed=True) as folder:
        yield folder


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
