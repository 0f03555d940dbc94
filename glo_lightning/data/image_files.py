"""Images that a user names: files, folders, or an LMDB."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from glo_lightning.data.source import StreamingDataset
from glo_lightning.data.sources.folder import image_paths
from glo_lightning.data.sources.lmdb import LMDBSource
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat, NotAnImageError, decode_image

log = logging.getLogger(__name__)


def find_images(paths: Sequence[Path]) -> Iterator[Path]:
    """The files among ``paths``, and those in its folders that have an image's suffix, sorted; see ``image_paths``.

    Raises:
        InputError: for a folder that may not be read.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        runs: list[str] = []
        try:
            inside = sorted(Path(entry.path) for entry in image_paths(path, runs))
        except OSError as error:
            raise InputError("images", error.filename or path, f"cannot be read ({error.strerror})") from error
        for run in sorted(runs):
            log.info("left out %s: it is a run folder", run)
        yield from inside


def read_images(paths: Sequence[Path], image_format: ImageFormat) -> tuple[Tensor, list[str]]:
    """Reads images, resized and cropped as for training.

    Files that are no images are left out with a warning each, and counted.

    Args:
        paths: files, folders that are searched for images, or LMDB folders.
        image_format: what they are made to be.

    Returns:
        uint8 images (M, C, H, W), and the name of each, a file's path or an LMDB's key.

    Raises:
        InputError: for a path that is not there, or when no image is left.
    """
    images: list[Tensor] = []
    names: list[str] = []
    unreadable = 0
    for path in paths:
        if not path.exists():
            raise InputError("images", path, "there is no such file or folder")
        if (path / "data.mdb").is_file():
            source = LMDBSource(path)
            read, rows = StreamingDataset(source, image_format, "skip")[list(range(len(source)))]
            images += read
            names += [source.key(row).decode(errors="backslashreplace") for row in rows.tolist()]
            unreadable += len(source) - len(rows)
            continue
        for file in find_images([path]):
            try:
                images.append(decode_image(file.read_bytes(), image_format))
                names.append(str(file))
            except (OSError, NotAnImageError) as error:  # it may not be read, or is none
                log.warning("left out %s: not an image (%s)", file, error)
                unreadable += 1
    if not images:
        raise InputError("images", " ".join(map(str, paths)), "no image was found there")
    if unreadable:
        log.warning("left out %d of %d files that are no images", unreadable, unreadable + len(images))
    return torch.stack(images), names
