"""The page's names of images: an index, a label, ``upload-3``, or a saved code."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from glo_lightning.browser.saved import NAME
from glo_lightning.browser.uploads import Uploads, is_upload
from glo_lightning.errors import InputError, did_you_mean
from glo_lightning.explore.codes import codes_and_images, codes_by_name, encode_images
from glo_lightning.explore.encoder import Encoder
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import to_uint8


class Names:
    """Finds codes and images by name. No name from the page can be a path, except that of a saved code.

    Args:
        run, encoder: the run, and its encoder if it has one.
        labels: the names ``name=value`` that exist; a value alone means the first label that has it.
        slow: held during an encoding.
    """

    def __init__(self, run: TrainedRun, labels: Sequence[str], encoder: Encoder | None, slow: threading.Lock):
        self._run, self._encoder, self._slow = run, encoder, slow
        self._labels = {label.partition("=")[2]: label for label in reversed(labels)}
        self._labels |= {label: label for label in labels}
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
        """Find the image (C, H, W), uint8, of a name; the generated one where the run's images are missing."""
        if is_upload(name):
            return self.uploads[name].pixels
        if self._run.data_or_none is None:
            return to_uint8(self._run.model(self.codes([name])[0])[0]).cpu()
        return codes_and_images(self._run, [self._typed(name)])[1][0]

    def file(self, name: str) -> str:
        """The file of an image in a command: that of an upload, else the one in which the page offers the image."""
        stem = re.sub(r"[^A-Za-z0-9_-]", "-", name.removesuffix(".npy"))
        return self.uploads[name].file if is_upload(name) else f"image-{stem}.png"

    def need_encoding(self, names: Sequence[str]) -> bool:
        """Whether any of these is an upload without a code yet."""
        return any(is_upload(name) and self.uploads[name].code is None for name in names)

    def _typed(self, name: str) -> str:
        """The name in a command."""
        if re.fullmatch(r"[0-9]{1,12}", name):
            return name
        if name in self._labels and name:
            return self._labels[name]
        stem = name.removesuffix(".npy")
        file = self._run.codes_folder / f"{stem}.npy"
        if NAME.fullmatch(stem) and (name != stem or file.is_file()):
            return str(file)
        otherwise = "give an index, a label, or the name of a saved code"
        raise InputError("image", name, f"is not known; {did_you_mean(name, self._labels, otherwise, cutoff=0.7)}")
