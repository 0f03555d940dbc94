"""What commands write: they know the files and folders that are their own, and replace no others."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from torch import Tensor

from glo_lightning.errors import InputError
from glo_lightning.explore.pictures import enlarged
from glo_lightning.explore.saved_codes import about_file
from glo_lightning.files import MARK, unlisted, whole_folder, write_whole

HTML_MARK = f'<meta name="generator" content="{MARK}">'


def write_png(path: Path, shown: Image.Image) -> None:
    """Writes a picture as PNG, marked as a command's own."""
    write_whole(path.absolute(), lambda file: shown.save(file, "PNG", optimize=True, exif=_mark()))


def write_animation(file: Any, frames: Tensor) -> None:
    """Fills a file with frames (M, 3, H, W): an endless animated WebP of twelve a second, at least 128 pixels wide."""
    first, *others = (enlarged(frame, 128) for frame in frames)
    moving: dict[str, Any] = {"save_all": True, "append_images": others, "duration": 83, "loop": 0}
    first.save(file, "WEBP", quality=80, method=6, exif=_mark(), **moving)


def _mark() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = MARK
    return exif


def is_own(path: Path) -> bool:
    """Whether a command wrote the file; of a folder whether it wrote all that is in it."""
    if path.is_dir():
        return unlisted(path) is None
    try:
        if path.suffix == ".npy":
            return is_own(about_file(path))
        if path.suffix == ".json":
            return json.loads(path.read_bytes())["written_by"] == MARK
        if path.suffix == ".html":
            with open(path, "rb") as file:
                return HTML_MARK.encode() in file.read(1000)
        with Image.open(path) as image:
            return image.getexif().get(ExifTags.Base.Software) == MARK
    except (OSError, ValueError, TypeError, KeyError):
        return False


def check_outputs(outputs: Mapping[str, Path], overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuses outputs that are there already, but for those that are to be replaced and that a command wrote.

    Args:
        outputs: the files and folders to write, by the flags that gave them.
        overwrite: whether they are to be replaced.
        inputs: what the command reads, which it never replaces.

    Raises:
        InputError: for an output that may not be written; nothing has been touched.
    """
    read = [Path(os.path.realpath(path)) for path in inputs]
    for key, path in outputs.items():
        real = Path(os.path.realpath(path))
        if any(real in (place, *place.parents) for place in read):
            raise InputError(key, path, "is, or holds, what the command reads. Give another name")
        if sum(os.path.realpath(other) == os.fspath(real) for other in outputs.values()) > 1:
            raise InputError(key, path, "is given for two outputs. Give another name")
        if not path.absolute().parent.is_dir():
            raise InputError(key, path, "its folder does not exist; make it, or give another name")
        for written in [path, about_file(path)] if path.suffix == ".npy" else [path]:
            _check_output(key, written, overwrite)


def _check_output(key: str, path: Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not is_own(path):
        foreign = unlisted(path) if path.is_dir() else None
        what = f"it holds {foreign.relative_to(path)}" if foreign else "it was not written by this command"
        raise InputError(key, path, f"is there already, and is not replaced: {what}. Give another name")
    if not overwrite:
        raise InputError(key, path, "is there already; give --overwrite to replace it, or another name")


def inputs_of(options: argparse.Namespace, outputs: Iterable[str]) -> list[Path]:
    """All files and folders that arguments name, but for those of the outputs."""
    values: list[Any] = [value for key, value in vars(options).items() if key not in outputs]
    values = [part for value in values for part in (value if isinstance(value, list) else [value])]
    values = [part for value in values for part in (value.values() if isinstance(value, dict) else [value])]
    return [Path(value) for value in values if isinstance(value, str | Path) and str(value) and os.path.exists(value)]


@contextlib.contextmanager
def named_writing(key: str, path: Path) -> Iterator[None]:
    """Turns a disk's refusal of ``path`` into an InputError of the flag that gave it."""
    try:
        yield
    except FileExistsError as error:
        raise InputError(key, error.filename or path, "is there already. Give another name") from error
    except OSError as error:
        raise InputError(key, path, f"cannot be written ({error.strerror}); give another place") from error


@contextlib.contextmanager
def output_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yields an empty folder that becomes ``--output`` once it is filled, or is removed when that fails.

    Raises:
        InputError: when the disk does not take it, or something else has come into the folder that is to be replaced.
    """
    with named_writing("output", path), whole_folder(path, replace=overwrite, listed=True) as folder:
        yield folder
