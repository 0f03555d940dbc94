"""What a picture has lost: linear maps of images, behind which a whole image is sought."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glo_lightning.data.image_files import find_images
from glo_lightning.errors import InputError
from glo_lightning.images import NotAnImageError, from_uint8, open_image, reading_image
from glo_lightning.latents import as_rows, fit_pca
from glo_lightning.losses import blur_matrix, gaussian_kernel
from glo_lightning.parts import PLUGIN_ERRORS, describe_exception, make_instance

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow has it


class Mask(nn.Module):
    """Keeps the pixels that are known, (B, C, H, W) to the same; the others are 0.

    Args:
        known: (1, H, W), 1 where a pixel is known and 0 where it is missing.
    """

    known: Tensor

    def __init__(self, known: Tensor):
        super().__init__()
        self.register_buffer("known", known)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.known


class Down(nn.Module):
    """The means of squares of ``factor`` pixels a side, (B, C, H, W) to (B, C, H / factor, W / factor)."""

    def __init__(self, factor: int = 4):
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, self.factor)


class Blur(nn.Module):
    """Blurs by a Gaussian of ``sigma`` pixels, its border pixels replicated, (B, C, H, W) to the same.

    Args:
        sigma: of the Gaussian.
        size: pixels of the kernel's side, odd; three sigmas to each side if not given.
    """

    def __init__(self, sigma: float = 2.0, size: int | None = None):
        super().__init__()
        if not 0 < sigma < math.inf:
            raise InputError("sigma", sigma, "must be more than 0, in pixels")
        size = 2 * round(3 * sigma) + 1 if size is None else size
        if size < 1 or size % 2 != 1:
            raise InputError("size", size, "of a blur's kernel must be odd, in pixels")
        self.kernel = gaussian_kernel(size, sigma)

    def forward(self, images: Tensor) -> Tensor:
        blur = blur_matrix(images.shape[-1], self.kernel).to(images)
        return blur @ images @ blur.T


class Grey(nn.Module):
    """The luma of colours, (B, C, H, W) to (B, 1, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        weights = torch.tensor(LUMA if images.shape[1] == 3 else (1.0,)).to(images)
        return (images * weights[:, None, None]).sum(1, keepdim=True)


OPERATORS = {"down4": "Down", "blur": "Blur", "grey": "Grey"}


def make_operator(
    name: str, image_size: int, channels: int, operator_args: Mapping[str, Any] | None = None
) -> nn.Module:
    """Makes the operator of that name, a linear map of images (B, C, H, W) to pictures (B, c, h, h).

    Args:
        name: ``mask``, ``down4``, ``blur``, ``grey``, or the path of a module's class.
        image_size, channels: H and W, and C, of the images that it is to be applied to.
        operator_args: of the class, plain values: ``{"sigma": 3}``; of ``mask`` its ``file``, see ``read_mask``.

    Raises:
        InputError: for a name that is none of these, arguments that it does not take, or what is no such map.
    """
    remedy = "give mask, down4, blur, grey or the path of a module's class, a linear map of images (B, C, H, W)"
    arguments = dict(operator_args or {})
    if name == "mask":
        if set(arguments) != {"file"} or not isinstance(arguments["file"], str):
            raise InputError("operator", name, "takes a file, whose black pixels are missing; give --mask FILE")
        file = Path(arguments["file"])
        try:
            return Mask(read_mask(file.read_bytes(), file, image_size))
        except OSError as error:
            raise InputError("mask", file, f"cannot be read ({error.strerror}); give an image file") from error
    path = f"{__name__}.{OPERATORS[name]}" if name in OPERATORS else name
    operator = make_instance(path, nn.Module, "operator", remedy, **(arguments or {}))
    one, two = torch.randn(2, 1, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        made, parts = operator(one - 2 * two), operator(one) - 2 * operator(two)
    except PLUGIN_ERRORS as error:
        raise InputError(
            "operator", name, f"does not take the run's images ({describe_exception(error)}); {remedy}"
        ) from error
    shape = tuple(made.shape) if isinstance(made, Tensor) else ()
    if len(shape) != 4 or shape[0] != 1 or shape[1] not in (1, 3) or shape[2] != shape[3]:
        raise InputError("operator", name, f"makes {shape or type(made).__name__} of an image; {remedy}")
    if not torch.allclose(made, parts, atol=1e-4 * max(1.0, float(made.abs().max()))):
        raise InputError("operator", name, f"is not linear; {remedy}")
    return operator


def read_mask(record: bytes, name: object, image_size: int) -> Tensor:
    """A mask (1, H, W) from an image file's bytes: 1 where its pixels are brighter than half, 0 where missing.

    Raises:
        InputError: for what is no image, is of another size, or leaves no pixel.
    """
    try:
        with reading_image(), open_image(record) as mask:
            width, height = mask.size
            pixels = np.asarray(mask.convert("L")) if width == height == image_size else None
    except NotAnImageError as error:
        raise InputError("mask", name, f"is no image ({error})") from error
    if pixels is None:
        raise InputError("mask", name, f"is of {width}x{height} pixels; give one of {image_size}x{image_size}")
    known = torch.from_numpy(pixels > 127).float()[None]
    if not known.any():
        raise InputError("mask", name, "leaves no pixel (all of it is black); white pixels are the known ones")
    return known


def check_sizes(paths: Sequence[Path], size: int, name: str) -> None:
    """Raises InputError for a picture that is not of ``size`` pixels a side, as the operator of that name makes them.

    A degraded picture is compared as it is: to resize it would be another operator.
    """
    for path in paths:
        if (path / "data.mdb").is_file():
            raise InputError(
                "images", path, "an LMDB's images are resized, pictures of an operator are not; give files"
            )
    for file in find_images([path for path in paths if path.exists()]):
        try:
            with reading_image(), open_image(file.read_bytes()) as image:
                width, height = image.size
        except (OSError, NotAnImageError):
            continue  # who reads it says so
        if (width, height) != (size, size):
            remedy = f"is of {width}x{height} pixels; --operator {name} makes {size}x{size}, give such a picture"
            raise InputError("images", file, remedy)


def restored(generated: Tensor, given: Tensor, operator: nn.Module, steps: int = 10) -> Tensor:
    """Images (B, C, H, W) that agree with what was given: of all that do, those nearest to ``generated``.

    They are found by steps of conjugate gradients (CGLS), of which a mask, ``down4`` and ``grey`` take one. A blurred
    picture is met more closely by each.

    Args:
        generated: (B, C, H, W) in [-1, 1].
        given: (B, c, h, h), what the operator made of the images.
        operator: linear.
        steps: at most.
    """

    def squares(tensor: Tensor) -> Tensor:
        return tensor.square().sum((1, 2, 3), keepdim=True)

    seen, back, *_ = torch.func.vjp(operator, generated)
    whole, lacking = generated, given - seen
    (slope,) = back(lacking)
    direction, length = slope, squares(slope)
    tiny, least = torch.finfo(length.dtype).tiny, torch.finfo(length.dtype).eps * length
    for _ in range(steps):
        seen = operator(direction)
        step = length / squares(seen).clamp(min=tiny)
        step = step * (length > least)  # an image that agrees stays as it is
        whole, lacking = whole + step * direction, lacking - step * seen
        (slope,) = back(lacking)
        before, length = length, squares(slope)
        direction = slope + length / before.clamp(min=tiny) * direction
    return whole


@torch.no_grad()
def least_squares(
    training: Tensor, pictures: Tensor, operator: nn.Module, latent_dim: int, whiten: bool = False, noise: float = 0.0
) -> tuple[Tensor, Tensor]:
    """What PCA makes of degraded pictures: the most probable coordinates of a Gaussian, by least squares.

    The training images' coordinates have variances, and what the PCA leaves of these images, seen through the
    operator, is the noise: where a picture tells little of a coordinate it stays near the mean.

    Args:
        training: uint8 images (n, C, H, W).
        pictures: (M, c, h, h).
        operator: from images to such pictures.
        latent_dim, whiten: of the PCA.
        noise: the standard deviation of noise on the pictures, besides.

    Returns:
        Codes (M, D) as the PCA init has them, not projected, and images (M, C, H, W).
    """
    mean, axes = fit_pca(as_rows(training.to(pictures.device)), latent_dim, whiten)
    back = axes.T / axes.square().sum(0)[:, None]  # (D, C * H * W): the axes are orthogonal

    def seen(rows: Tensor) -> Tensor:
        return operator(rows.view(-1, *training.shape[1:])).flatten(1)

    directions, middle = seen(back), seen(mean[None])  # (D, c * h * h), (1, c * h * h)
    some = as_rows(training[:2048].to(mean.device))
    coordinates = (some - mean) @ axes
    left = (seen(some) - middle - coordinates @ directions).square().mean()
    precision = directions @ directions.T / (left + noise**2)
    precision += torch.diag(1 / coordinates.var(0, correction=0).clamp(min=torch.finfo(mean.dtype).tiny))
    told = directions @ (pictures.flatten(1) - middle).T / (left + noise**2)
    codes = torch.linalg.solve(precision, told).T
    return codes, (mean + codes @ back).view(-1, *training.shape[1:])


@torch.no_grad()
def nearest_behind(training: Tensor, pictures: Tensor, operator: nn.Module) -> Tensor:
    """The rows (M,) of the training images (uint8) whose pictures are nearest to those given, by squared error."""
    wanted = pictures.flatten(1)
    distances = [
        torch.cdist(wanted, operator(from_uint8(some.to(wanted.device))).flatten(1)) for some in training.split(1024)
    ]
    return torch.cat(distances, dim=1).argmin(1)
