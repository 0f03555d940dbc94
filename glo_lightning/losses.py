"""The reconstruction loss of the GLO paper: the L1 distance of Laplacian pyramids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glo_lightning.errors import InputError, check_at_least, did_you_mean
from glo_lightning.parts import make_part, trying


def gaussian_kernel(size: int = 5, sigma: float = 2.0) -> Tensor:
    """The sampled one-dimensional Gaussian (size,), which sums to 1. Its outer product is the 2-D Gaussian."""
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def blur_matrix(length: int, kernel: Tensor) -> Tensor:
    """The matrix A (length, length) that blurs a line of pixels with ``kernel``, replicating its border pixels.

    The Gaussian is separable, so ``A @ x @ A.T`` blurs an image: two small matrix products, without padding.
    """
    reach = len(kernel) // 2
    rows = torch.arange(length)[:, None].expand(-1, len(kernel))
    columns = (rows + torch.arange(len(kernel)) - reach).clamp(0, length - 1)
    matrix = torch.zeros(length, length, dtype=kernel.dtype)
    return matrix.index_put_((rows, columns), kernel.expand_as(rows), accumulate=True)


def laplacian_pyramid(images: Tensor, blurs: Sequence[Tensor]) -> list[Tensor]:
    """Splits images (B, C, H, W) into bands of halving size and a residual.

    Band j is the image at level j minus its blur, (B, C, H / 2^j, W / 2^j). The next level is the 2x2 mean of the blur,
    and the last entry is the residual. The map is linear. After Burt and Adelson (1983), as Ling and Okada's Lap1 and
    minimal_glo use it.

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

    The pyramid is linear, so the pyramid of the difference suffices. GLO's equation (Bojanowski et al., 2018, after
    Ling and Okada, 2006) weights *summed* absolute values by 2^(2j), where j grows towards coarser levels. Up to a
    constant this equals equal weights of per-level *means*, the default here.

    Args:
        levels: number of bands, besides the residual. 0 is plain L1.
        level_weights: ``levels + 1`` weights, finest first, residual last; equal if not given.
        l2_weight: weight of the mean squared error, which is added.

    Raises:
        InputError: for weights that do not match the levels, and, at the first images, for levels they do not have.
    """

    def __init__(self, levels: int = 3, level_weights: Sequence[float] | None = None, l2_weight: float = 0.0):
        super().__init__()
        check_at_least("levels", levels, 0)
        weights = [1.0] * (levels + 1) if level_weights is None else list(level_weights)
        if len(weights) != levels + 1 or not all(0 <= weight < math.inf for weight in weights):
            remedy = f"Give {levels + 1} weights of 0 or more, one for each of {levels} levels and one for the residual"
            raise InputError("level_weights", weights, f"do not fit the levels. {remedy}")
        check_at_least("l2_weight", l2_weight, 0)
        self.level_weights, self.l2_weight, self.image_size = weights, l2_weight, 0

    def build(self, image_size: int, device: torch.device) -> None:
        """Makes the blur matrices for images of this size; the first images of another size do it too."""
        levels, most = len(self.level_weights) - 1, int(math.log2(image_size))
        if levels > most:
            raise InputError("levels", levels, f"images of {image_size} pixels have at most {most} levels. Give fewer")
        for level in range(levels):
            matrix = blur_matrix(image_size >> level, gaussian_kernel()).float().to(device)
            self.register_buffer(f"blur_{level}", matrix, persistent=False)
        self.image_size = image_size

    def forward(self, generated: Tensor, images: Tensor) -> Tensor:
        if images.shape[-1] != self.image_size:
            self.build(images.shape[-1], images.device)
        # In float32 also under autocast: a band is a small difference of large numbers.
        with torch.autocast(generated.device.type, enabled=False):
            blurs = [self.get_buffer(f"blur_{level}").float() for level in range(len(self.level_weights) - 1)]
            difference = generated.float() - images.float()
            bands = laplacian_pyramid(difference, blurs)
            terms = [weight * band.abs().mean() for weight, band in zip(self.level_weights, bands, strict=True)]
            if self.l2_weight:
                terms.append(self.l2_weight * difference.square().mean())
            return torch.stack(terms).sum()


def find_loss(name: str) -> dict[str, Any]:
    """Describes the loss of that name: ``LaplacianLoss``, one of ``torch.nn`` such as ``MSELoss``, or a class path.

    Raises:
        InputError: for a name that is none of these.
    """
    if "." not in name:
        known = {"LaplacianLoss": __name__} | {key: "torch.nn" for key in vars(nn) if key.endswith("Loss")}
        if name not in known:
            remedy = did_you_mean(name, list(known), "Give LaplacianLoss, MSELoss or the path of a class")
            raise InputError("loss", name, f"there is no such loss. {remedy}")
        name = f"{known[name]}.{name}"
    return {"class_path": name, "init_args": {}}


def make_loss(description: Mapping[str, Any], image_size: int, channels: int) -> nn.Module:
    """Makes the loss of a description, see ``parts.describe_part``, that maps two (B, C, H, W) to a scalar.

    Raises:
        InputError: for a class that cannot be made with these arguments, or is no such loss.
    """
    path = description["class_path"]
    loss = make_part(description, nn.Module, "loss")
    images = torch.zeros(2, channels, image_size, image_size)
    fault = f"does not compare images of shape {tuple(images.shape)}"
    remedy = "Give one that maps (generated, images) to a scalar"
    with trying("loss", path, fault, remedy), torch.no_grad(), torch.random.fork_rng(devices=[]):
        value = loss(images, images)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError("loss", path, f"makes {shape} of two images. Give a module that makes a scalar")
    return loss
