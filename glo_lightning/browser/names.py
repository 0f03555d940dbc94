"""The page's names of images: an index, ``name=value``, ``upload-3``, or a saved code."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from glo_lightning.browser.uploads import Uploads, is_upload
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import codes_and_images, codes_by_name, encode_images
from glo_lightning.explore.encoder import Encoder
from glo_lightning.explore.trained_run import TrainedRun


class Names:
    """Finds codes and images by name. No name from the page can be a path, except that of a saved code.

    Args:
        run, encoder: the run, and its encoder if it has one.
        labels: the names ``name=value`` that exist.
        codes_folder: of saved codes.
        slow: held during an encoding.
    """

    def __init__(
        self, run: TrainedRun, labels: Sequence[str], codes_folder: Path, encoder: Encoder | None, slow: threading.Lock
    ):
        self._run, self._labels, self._codes_folder, self._encoder = run, set(labels), codes_folder, encoder
        self._slow = slow
        self.uploads = Uploads()

    def codes(self, names: Sequence[str]) -> tuple[Tensor, list[str]]:
        """Find the codes (M, D) of images, and their names in a command."""
        if not names:
            raise InputError("names", "", "there are none. Give one or more.")
        codes, typed = [], []
        for name in names:
            if is_upload(name):
                upload = self.uploads[name]
                with self._slow:
                    if upload.code is None:
                        (upload.code,) = encode_images(self._run, upload.pixels[None], self._encoder)
                codes.append(upload.code)
                typed.append(upload.file)
            else:
                typed.append(self._typed(name))
                codes.append(codes_by_name(self._run, typed[-1:])[0])
        return torch.stack(codes), typed

    def pixels(self, name: str) -> Tensor:
        """Find the image (C, H, W), uint8, of a name."""
        if is_upload(name):
            return self.uploads[name].pixels
        return codes_and_images(self._run, [self._typed(name)])[1][0]

    def need_encoding(self, names: Sequence[str]) -> bool:
        """Whether any of these is an upload without a code yet."""
        return any(is_upload(name) and self.uploads[name].code is None for name in names)

    def _typed(self, name: str) -> str:
        """The name in a command."""
        if re.fullmatch(r"[0-9]{1,12}", name) or name in self._labels:
            return name
        if re.fullmatch(r"[A-Za-z0-9_-]{1,60}\.npy", name):
            return str(self._codes_folder / name)
        raise InputError("image", name, "is not known. Give an index, name=value, or the name of a saved code (.npy).")
