"""Operators that degrade images: linear maps to smaller, blurred, grey or partly masked pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glo_lightning.data.image_files import find_images
from glo_lightning.errors import InputError, decoding
from glo_lightning.images import NotAnImageError, open_image, reading_image
from glo_lightning.losses import blur_matrix, gaussian_kernel
from glo_lightning.parts import make_instance, trying

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow has it


class Mask(nn.Module):
    """Sets missing pixels to 0, (B, C, H, W) to (B, C, H, W); ``mask`` (1, H, W) is 1 where they are known."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.mask


class Downsample(nn.Module):
    """Averages squares of ``factor`` pixels a side, (B, C, H, W) to (B, C, H / factor, W / factor)."""

    def __init__(self, factor: int = 4):
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, self.factor)


class Blur(nn.Module):
    """Blurs by a Gaussian with replicated borders, (B, C, H, W) to (B, C, H, W).

    ``sigma`` and the kernel's odd ``size`` are in pixels; the size is three sigmas to each side by default.
    """

    def __init__(self, sigma: float = 2.0, size: int | None = None):
        super().__init__()
        if not 0 < sigma <= 1000:
            raise InputError("sigma", sigma, "must be more than 0, and at most 1000. Give it in pixels.")
        size = 2 * round(3 * sigma) + 1 if size is None else size
        if not 1 <= size <= 6001 or size % 2 != 1:
            raise InputError("size", size, "of a blur's kernel must be odd, and at most 6001. Give it in pixels.")
        self.kernel = gaussian_kernel(size, sigma)

    def forward(self, images: Tensor) -> Tensor:
        blur = blur_matrix(images.shape[-1], self.kernel).to(images)
        return blur @ images @ blur.T


class ToGray(nn.Module):
    """Computes the luma, (B, C, H, W) to (B, 1, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        weights = torch.tensor(LUMA if images.shape[1] == 3 else (1.0,)).to(images)
        return (images * weights[:, None, None]).sum(1, keepdim=True)


OPERATORS = {"down4": "Downsample", "blur": "Blur", "grey": "ToGray"}


def make_operator(
    name: str, image_size: int, channels: int, operator_args: Mapping[str, Any] | None = None
) -> nn.Module:
    """Make the operator of that name, a linear map of images (B, C, H, W) to pictures (B, c, h, h).

    Args:
        name: ``mask``, ``down4``, ``blur``, ``grey``, or the path of a module's class.
        image_size, channels: H and W, and C, of the images that it is applied to.
        operator_args: of the class, plain values: ``{"sigma": 3}``; of ``mask`` its ``file``, see ``read_mask``.

    Raises:
        InputError: for another name, wrong arguments, or a class that is not such a map.
    """
    choices = "mask, down4, blur, grey or the path of a module's class, a linear map of images (B, C, H, W)"
    arguments = dict(operator_args or {})
    if name == "mask":
        if set(arguments) != {"file"} or not isinstance(arguments["file"], str):
            raise InputError("operator", name, "takes a file, whose black pixels are missing. Give --mask FILE.")
        file = Path(arguments["file"])
        with decoding("mask", file, "Give an image file."):
            return Mask(read_mask(file.read_bytes(), file, image_size))
    path = f"{__name__}.{OPERATORS[name]}" if name in OPERATORS else name
    operator = make_instance(path, nn.Module, "operator", f"Give {choices}", **arguments)
    one, two = torch.randn(2, 1, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with trying("operator", name, "does not take images of this run", f"Give {choices}."):
        output, expected = operator(one - 2 * two), operator(one) - 2 * operator(two)
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if len(shape) != 4 or shape[0] != 1 or shape[1] not in (1, 3) or shape[2] != shape[3]:
        raise InputError("operator", name, f"makes {shape or type(output).__name__} of an image. Give {choices}.")
    if not torch.allclose(output, expected, atol=1e-4 * max(1.0, float(output.abs().max()))):
        raise InputError("operator", name, f"is not linear. Give {choices}.")
    return operator


def read_mask(record: bytes, name: object, image_size: int) -> Tensor:
    """Read a mask (1, H, W) from an image file's bytes: 1 where its pixels are brighter than half, else 0.

    Raises:
        InputError: for a file that is not an image, is of another size, or has no bright pixel.
    """
    with decoding("mask", name, "Give a PNG."), open_image(record) as image:
        width, height = image.size
        if not width == height == image_size:
            remedy = f"is of {width}x{height} pixels. Give one of {image_size}x{image_size}."
            raise InputError("mask", name, remedy)
        mask = torch.from_numpy(np.asarray(image.convert("L")) > 127).float()[None]
    if not mask.any():
        raise InputError("mask", name, "leaves no pixel, all of it is black. Paint the known pixels white.")
    return mask


def check_sizes(paths: Sequence[Path], size: int, name: str) -> None:
    """Raise InputError unless all pictures are of ``size`` pixels a side, as the operator of that name makes them.

    Degraded pictures are compared as they are: resizing would be another operator.
    """
    for path in paths:
        if (path / "data.mdb").is_file():
            remedy = "an LMDB's images are resized, degraded pictures are not. Give files."
            raise InputError("images", path, remedy)
    for file in find_images([path for path in paths if path.exists()]):
        try:
            with reading_image(), open_image(file.read_bytes()) as image:
                width, height = image.size
        except (OSError, NotAnImageError):
            continue  # reported when it is read
        if (width, height) != (size, size):
            remedy = f"is of {width}x{height} pixels; --operator {name} makes {size}x{size}. Give such a picture."
            raise InputError("images", file, remedy)
