"""Reconstruction losses: the Laplacian pyramid L1 of the GLO paper, and L2 to compare with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glo_lightning.class_path import find_class, make_instance
from glo_lightning.errors import InputError, check_at_least


def gaussian_kernel(size: int = 5, sigma: float = 2.0) -> Tensor:
    """The sampled one-dimensional Gaussian, (size,), summing to 1; its outer product is the 2-D Gaussian."""
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def blur_matrix(length: int, kernel: Tensor) -> Tensor:
    """The matrix (length, length) that blurs a line of pixels with ``kernel``, its border pixels replicated.

    As the Gaussian is separable, ``A @ x @ A.T`` blurs an image: two small matrix products, without padding.
    """
    reach = len(kernel) // 2
    rows = torch.arange(length)[:, None].expand(-1, len(kernel))
    columns = (rows + torch.arange(len(kernel)) - reach).clamp(0, length - 1)
    matrix = torch.zeros(length, length, dtype=kernel.dtype)
    return matrix.index_put_((rows, columns), kernel.expand_as(rows), accumulate=True)


def laplacian_pyramid(images: Tensor, blurs: Sequence[Tensor]) -> list[Tensor]:
    """Splits images (B, C, H, W) into bands of halving size and what is left.

    Band j is the image at level j less its blur, (B, C, H / 2^j, W / 2^j); the next level is the 2x2 mean of the
    blur; the last entry is the residual. The map is linear. After Burt and Adelson (1983), as Ling and Okada's
    Lap1 and minimal_glo use it.

    Args:
        images: (B, C, H, W), square.
        blurs: one ``blur_matrix`` a level, of the sizes H, H / 2, H / 4, ...
    """
    pyramid = []
    for blur in blurs:
        blurred = blur @ images @ blur.T
        pyramid.append(images - blurred)
        images = F.avg_pool2d(blurred, 2)
    return [*pyramid, images]


class LaplacianLoss(nn.Module):
    """Weighted L1 distance of two Laplacian pyramids: ``sum_j w_j |L_j(generated) - L_j(images)|_1``.

    The pyramid is linear, so one pyramid of the difference does. GLO's equation (Bojanowski et al., 2018, after
    Ling and Okada, 2006) weighs *summed* absolute values by 2^(2j), j growing towards coarser levels: that is the
    default here, equal weights of per-level *means*, up to a constant.

    Args:
        levels: number of bands; the residual comes on top. 0 is plain L1.
        level_weights: ``levels + 1`` weights, finest first, residual last; equal ones if not given.
        image_size: H and W of the images; at least ``2 ** levels``.
        l2_weight: adds the mean squared error times this.

    Raises:
        InputError: for levels that the image size does not have, or weights that do not match the levels.
    """

    def __init__(
        self,
        levels: int = 3,
        level_weights: Sequence[float] | None = None,
        image_size: int = 64,
        l2_weight: float = 0.0,
    ):
        super().__init__()
        most = int(math.log2(image_size))
        if not 0 <= levels <= most:
            raise InputError("levels", levels, f"images of {image_size} pixels have 0 to {most} levels")
        weights = [1.0] * (levels + 1) if level_weights is None else list(level_weights)
        if len(weights) != levels + 1 or not all(0 <= weight < math.inf for weight in weights):
            remedy = f"give {levels + 1} weights of 0 or more, one for each of {levels} levels and one for the residual"
            raise InputError("level_weights", weights, remedy)
        check_at_least("l2_weight", l2_weight, 0)
        self.level_weights, self.l2_weight = weights, l2_weight
        for level in range(levels):
            matrix = blur_matrix(image_size >> level, gaussian_kernel()).float()
            self.register_buffer(f"blur_{level}", matrix, persistent=False)

    def forward(self, generated: Tensor, images: Tensor) -> Tensor:
        # In float32 also under autocast: a band is a small difference of large numbers.
        with torch.autocast(generated.device.type, enabled=False):
            blurs = [self.get_buffer(f"blur_{level}").float() for level in range(len(self.level_weights) - 1)]
            difference = generated.float() - images.float()
            bands = laplacian_pyramid(difference, blurs)
            terms = [weight * band.abs().mean() for weight, band in zip(self.level_weights, bands, strict=True)]
            if self.l2_weight:
                terms.append(self.l2_weight * difference.square().mean())
            return torch.stack(terms).sum()


def make_loss(
    name: str,
    image_size: int = 64,
    levels: int | None = None,
    level_weights: Sequence[float] | None = None,
    l2_weight: float | None = None,
    loss_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Builds the loss of that name, a module that maps (generated, images) to a scalar, a mean over the batch.

    Args:
        name: ``lap_l1``, ``l2`` (mean squared error), or the path of a module's class, such as ``torch.nn.L1Loss``.
        image_size: see LaplacianLoss.
        levels, level_weights, l2_weight: of ``lap_l1`` alone, see LaplacianLoss; its defaults where None.
        loss_args: the arguments that a class given by its path is made with, plain values.

    Raises:
        InputError: for a name that is none of these, and for an argument that this loss does not use.
    """
    remedy = "give lap_l1, l2 or the path of a module's class, such as torch.nn.L1Loss"
    if name not in ("lap_l1", "l2"):
        find_class(name, nn.Module, "loss", remedy)
    own = {"levels": levels, "level_weights": level_weights, "l2_weight": l2_weight}
    given: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
    unused = {} if name == "lap_l1" else dict(given)
    if name in ("lap_l1", "l2") and loss_args:
        unused["loss_args"] = loss_args
    for key, value in unused.items():
        raise InputError(key, value, f"the loss {name} does not use it; give --model.{key} null, or another loss")
    if name == "lap_l1":
        return LaplacianLoss(image_size=image_size, **given)
    if name == "l2":
        return nn.MSELoss()
    return make_instance(name, nn.Module, "loss", remedy, arguments=loss_args)
