"""Images that a user names: files, folders or an LMDB."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from glo_lightning.data.decoding import captured
from glo_lightning.data.sources.folder import list_images, path_text
from glo_lightning.data.sources.lmdb import LMDBSource, is_lmdb
from glo_lightning.data.store import StreamingDataset
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat, NotAnImageError, decode_image

log = logging.getLogger(__name__)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Lists the files among ``paths``, and the sorted image files in its folders; see ``list_images``.

    Raises:
        InputError: for a folder that has no images or may not be read, and a path that is neither file nor folder.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(map(Path, list_images(path, "images")))
        elif path.is_file():
            files.append(path)
        else:
            raise InputError("images", path, "there is no such file or folder. Give image files or folders of them.")
    return files


@contextlib.contextmanager
def log_notes_of(path: Path) -> Iterator[None]:
    """A block that decodes a file: what Pillow and its C libraries say is logged with the file's name."""
    with tempfile.TemporaryFile() as file, captured(file) as said:
        yield
    for line in dict.fromkeys(said):
        log.warning("%s: %s", path_text(path), line)


def read_images(paths: Sequence[Path], image_format: ImageFormat) -> tuple[Tensor, list[str]]:
    """Reads images, resized and cropped as for training.

    Files that are not images are skipped, with a warning for each and their number at the end.

    Args:
        paths: image files, folders of images, or LMDB folders.

    Returns:
        uint8 images (M, C, H, W), and the name of each: a file's path or an LMDB's key.

    Raises:
        InputError: for a path that does not exist, or when no image is left.
    """
    images: list[Tensor] = []
    names: list[str] = []
    num_invalid = 0
    for path in paths:
        is_database = False
        with contextlib.suppress(OSError):  # a file that may not be read is reported below
            is_database = is_lmdb(path)
        if is_database:
            source = LMDBSource(path)
            read, rows = StreamingDataset(source, image_format, "skip")[range(len(source))]
            images += read
            names += [source.key(row).decode(errors="backslashreplace") for row in rows.tolist()]
            num_invalid += len(source) - len(rows)
            continue
        for file in find_images([path]):
            try:
                with log_notes_of(file):
                    images.append(decode_image(file.read_bytes(), image_format))
                names.append(path_text(file))
            except (OSError, NotAnImageError) as error:
                log.warning("skipped %s: not an image (%s)", path_text(file), error)
                num_invalid += 1
    if not images:
        raise InputError("images", " ".join(map(str, paths)), "no image was found there")
    if num_invalid:
        log.warning("skipped %d of %d files, which are not images", num_invalid, num_invalid + len(images))
    return torch.stack(images), names
