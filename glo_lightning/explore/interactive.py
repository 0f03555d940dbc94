"""A trained run for Python and notebooks: each method is one of the commands, and returns what it made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from glo_lightning.data.image_files import read_images
from glo_lightning.devices import Accelerator
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import ImageName, check_images_fit, codes_and_images, encode_images, generate
from glo_lightning.explore.editing import arithmetic, check_pairs, interpolation_strips, label_cells, walk_strips
from glo_lightning.explore.encoder import load_encoder
from glo_lightning.explore.flows import default_path
from glo_lightning.explore.outputs import Result
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.sampling import MAX_SHOWN, draw_codes, samples_picture
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import decode_image, from_uint8, psnr

Named = int | str | Path | Image.Image  # an image; see ``InteractiveRun``
PER_ROW = 8  # images in a row of reconstructions


def load_run(path: str | Path, accelerator: Accelerator = "auto", root: str | Path | None = None) -> InteractiveRun:
    """Load a run folder, a checkpoint file or an exported folder; see ``TrainedRun``."""
    return InteractiveRun(path, accelerator, root)


class InteractiveRun(TrainedRun):
    """A trained run whose methods draw, edit and encode images.

    An image is named as on the command line: the index of a training image; ``name=value``, for the mean code of the
    training images with that label; a saved code, ``FILE.npy``; an image file. A Pillow image may stand for a file.

    Every method raises InputError for values out of range, images that do not exist, and, but for ``sample`` and
    ``walk``, for a run whose training images are missing.
    """

    def __repr__(self) -> str:
        size, generator = self.model.hparams["image_size"], self.model.hparams["generator"]["class_path"]
        number, latent_dim = self.trained_codes.shape
        parts = [f"{number} images of {size}x{size} pixels", f"{latent_dim} dimensions", generator.rpartition(".")[2]]
        return f"Run: {', '.join(parts)}, step {self.global_step}, prior {self.default_prior}"

    def sample(
        self,
        num: int = 24,
        prior: str | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        condition: str | Sequence[str] = (),
        guidance: float | None = None,
    ) -> Result:
        """Draw new images from a prior; the picture shows 64 at most, beside the training images nearest to them.

        Args:
            num: number of images.
            prior: ``flow``, ``mixture``, ``gaussian``, ``diagonal`` or the path of a class; by default a flow where
                there are 1,000 codes and 20 for each dimension (of a place), else a mixture.
            seed: the same seed draws the same images.
            temperature: below 1, images are more typical and vary less.
            condition: labels that all the images are to have, ``name=value``.
            guidance: of a flow; 1 samples as learned, more is stricter.
        """
        check_images_fit(self, "num", num, num)
        labels = [condition] if isinstance(condition, str) else condition
        codes, title = draw_codes(self, num, prior, seed, temperature, labels, guidance)
        images = generate(self.model, codes).cpu()
        return Result(samples_picture(self, codes, images, title), codes, images)

    def interpolate(self, *images: Named, steps: int = 9, path: str | None = None) -> Result:
        """Go from image to image in ``steps``, for each pair START, END: steps codes for each, both ends included.

        Args:
            images: START, END, START, END, ...
            steps: images in a row.
            path: ``flow``, ``arc`` or ``line``; by default a flow where there are enough codes, else the arc.
        """
        check_pairs(images)
        paths = [path or default_path(self)]
        names = _names(images)
        codes, pixels = codes_and_images(self, names)
        return Result(*interpolation_strips(self, codes, label_cells(names, pixels), paths, steps))

    def walk(
        self, image: Named | None = None, axes: int = 6, steps: int = 9, reach: float = 3.0, path: str = "line"
    ) -> Result:
        """Change a code along the principal axes of the codes, ``steps`` codes for each axis.

        Args:
            image: the start; None for the mean code.
            axes: number of axes, the longest first.
            steps: images in a row; odd, to include the start.
            reach: standard deviations to either side.
            path: ``line``, among the codes, or ``flow``, in the noise of a flow.
        """
        start = None if image is None else _names([image])[0]
        return Result(*walk_strips(self, start, axes, steps, reach, path))

    def arithmetic(
        self,
        a: Named | Sequence[Named],
        b: Named | Sequence[Named],
        c: Named | Sequence[Named],
        strength: float = 1.0,
        path: str = "line",
    ) -> Result:
        """Generate strength * (a - b) + c; several images stand for their mean code. Gives a, b, c and the result.

        Args:
            a, b, c: an image, or several.
            strength: factor of the difference; with labels, 1.2 shows more of what is added.
            path: ``line``, among the codes, or ``flow``, in the noise of a flow.
        """
        terms = [_names([term] if isinstance(term, Named) else term) for term in (a, b, c)]
        return Result(*arithmetic(self, terms, strength, path))

    def encode(self, *images: str | Path | Image.Image, steps: int | None = None) -> Result:
        """Find codes of images that are not training images.

        Args:
            images: files, folders, LMDBs or Pillow images; files that are not images are left out.
            steps: of the descent, at most; by default 30 with an encoder, else 150.
        """
        if not images:
            raise InputError("images", "nothing", "is given. Name files or folders, or give Pillow images.")
        kept = self.data.image_format
        batches = [
            decode_image(image, kept)[None] if isinstance(image, Image.Image) else read_images([Path(image)], kept)[0]
            for image in images
        ]
        pixels = torch.cat(batches)
        codes = encode_images(self, pixels, load_encoder(self), steps=steps)
        return self._compare("Encoded images", pixels, codes)

    def reconstruct(self, *images: Named) -> Result:
        """Generate the images of the codes of images; by default of the first eight training images."""
        names = _names(images or self.rows[:PER_ROW].tolist())
        codes, pixels = codes_and_images(self, names)
        return self._compare("Reconstructions", pixels, codes)

    def _compare(self, title: str, pixels: Tensor, codes: Tensor) -> Result:
        """Generate images of codes (M, D), and lay out the first of them below their targets (M, C, H, W), uint8."""
        generated = generate(self.model, codes).cpu()
        rows: list[list[Tensor]] = []
        for targets, images in zip(
            pixels[:MAX_SHOWN].split(PER_ROW), generated[:MAX_SHOWN].split(PER_ROW), strict=True
        ):
            rows += [list(targets), list(images)]
        title = f"{title}: PSNR {psnr(generated, from_uint8(pixels)):.1f} dB"
        return Result(picture(rows, title, captions=["image", "generated"] * (len(rows) // 2)), codes, generated)


def _names(images: Sequence[Named]) -> list[ImageName]:
    return [image if isinstance(image, Image.Image) else str(image) for image in images]
