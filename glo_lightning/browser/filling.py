"""Regions of an image, painted over on the page, are filled in from the learned space."""

from __future__ import annotations

import functools
import hashlib
import threading
from typing import Any

from torch import Tensor

from glo_lightning.browser.commands import Commands
from glo_lightning.browser.names import Names
from glo_lightning.browser.payloads import as_text, as_url
from glo_lightning.browser.training_images import TrainingImages
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import generate
from glo_lightning.explore.encoder import Encoder
from glo_lightning.explore.operators import Mask, read_mask
from glo_lightning.explore.restoration import Restoration, enforce_consistency
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import from_uint8, psnr

UNLIKE = 10.0  # dB below the training images' PSNR


class Filler:
    """Fills in images of any name; ``slow`` is held during that."""

    def __init__(
        self,
        run: TrainedRun,
        images: TrainingImages,
        names: Names,
        encoder: Encoder | None,
        commands: Commands,
        slow: threading.Lock,
    ):
        self._run, self._images, self._names, self._encoder = run, images, names, encoder
        self._commands, self._slow = commands, slow

    def target(self, name: str) -> dict[str, str]:
        """The image of a name, to be filled in, and its file in the command; of a saved code the generated image."""
        return {"name": name, "file": self._names.file(name), "image": as_url(self._names.pixels(name))}

    def fill(self, name: str, mask: bytes) -> dict[str, Any]:
        """An image whose pixels under the mask's black ones are filled from the learned space."""
        pixels, file = self._names.pixels(name), self._names.file(name)
        operator = Mask(read_mask(mask, "painted", self._run.model.hparams["image_size"]))
        if operator.mask.all():
            raise InputError("mask", "painted", "covers nothing. Paint over what is to be filled in.")
        with self._slow:
            picture = operator(from_uint8(pixels[None]))
            codes = Restoration(self._run, operator, self._encoder).find_codes(picture)
        generated, operator = generate(self._run.model, codes).cpu(), operator.cpu()
        image = enforce_consistency(generated, picture, operator)[0]
        known = operator.mask[0] > 0
        note = self.note(generated[..., known], picture[..., known])
        output = self._commands.output("filled", "", file, hashlib.sha256(mask).hexdigest())
        command = self._commands.line("encode", None, file, "--mask", "mask.png", "--output", output)
        return {"image": as_url(image), "code": as_text(codes[0]), "command": command, "note": note}

    @functools.cached_property
    def usual_psnr(self) -> float:
        """The PSNR of some training images' reconstructions, in dB; the run's images must be there."""
        rows = self._run.rows[:: max(1, len(self._run.rows) // 64)]
        return float(self._images.psnr(rows.tolist()).mean())

    def note(self, generated: Tensor, picture: Tensor) -> str:
        """A warning where a picture that is not a training image is unlike these, else nothing."""
        reached = float(psnr(generated, picture))
        if reached > self.usual_psnr - UNLIKE:
            return ""
        return (
            f"The generator reaches {reached:.1f} dB on this picture, and {self.usual_psnr:.1f} dB on training images: "
            "it is unlike them, and so may be what is made of it."
        )
