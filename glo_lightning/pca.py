"""The PCA of images, or of their patches: the initial codes, and what a learned generator has to be better than."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.images import from_uint8

MAX_PCA_ELEMENTS = 24_576 * 3 * 128**2  # of the matrix that a PCA is fitted to: 4.8 GB as float32
N_OVERSAMPLES = 40  # extra dimensions of a randomized PCA


class ImagePCA(NamedTuple):
    """A PCA of images, or of the ``side * side`` patches of each, which share mean and axes.

    A code (D,) of patches is a small image of coordinates, (D / side**2, side, side), flattened.

    Attributes:
        mean: (F,), a patch's, of F = C * (H / side) * (W / side) values in [-1, 1].
        axes: (F, D / side**2), orthogonal, of a length by which coordinates get the wanted variances.
        channels: C.
        side: number of patches from left to right, and from top to bottom.
    """

    mean: Tensor
    axes: Tensor
    channels: int
    side: int = 1

    def codes(self, images: Tensor) -> Tensor:
        """The coordinates (b, D) of images (b, C, H, W) in [-1, 1]."""
        coordinates = (patches(images, self.side) - self.mean) @ self.axes
        return coordinates.unflatten(0, (len(images), -1)).transpose(1, 2).flatten(1)

    def images(self, codes: Tensor) -> Tensor:
        """The images (b, C, H, W) of coordinates (b, D), not clamped."""
        coordinates = codes.unflatten(1, (-1, self.side**2)).transpose(1, 2).flatten(0, 1)
        return join_patches(self.mean + coordinates @ self.inverse(), self.side, self.channels)

    @property
    def title(self) -> str:
        return "PCA" if self.side == 1 else "PCA of patches"

    def reconstruct(self, images: Tensor) -> Tensor:
        """Project images (b, C, H, W) in [-1, 1] on the axes, clamped to that range."""
        return self.images(self.codes(images)).clamp(-1, 1)

    def inverse(self) -> Tensor:
        """The map (D / side**2, F) from coordinates back to patches, less their mean."""
        return (self.axes / self.axes.square().sum(dim=0)).T


def patches(images: Tensor, side: int) -> Tensor:
    """Cut images (b, C, H, W) into rows of patches (b * side * side, C * (H / side) * (W / side))."""
    if side == 1:
        return images.flatten(1)
    rows = images.unflatten(3, (side, -1)).unflatten(2, (side, -1))  # (b, C, side, h, side, w)
    return rows.permute(0, 2, 4, 1, 3, 5).reshape(len(images) * side**2, -1)


def join_patches(rows: Tensor, side: int, channels: int) -> Tensor:
    """Put rows of patches (b * side * side, C * h * w) together to images (b, C, side * h, side * w)."""
    height = math.isqrt(rows.shape[1] // channels)
    cut = rows.view(-1, side, side, channels, height, height).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(len(cut), channels, side * height, side * height)


def max_dimensions(num_images: int, features: int, side: int = 1) -> int:
    """The most dimensions of a code that a PCA of so many images, of ``features`` values each, has."""
    return min(num_images * side**4, features)  # side**2 patches of an image, and as many places of a code


def check_pca(latent_dim: int, num_images: int, n_pca: int, features: int, side: int = 1) -> None:
    """Raise InputError for more dimensions than a PCA of so many images has, of ``features`` values each."""
    check_at_least("n_pca", n_pca, 1)
    number = min(num_images, n_pca)
    most = max_dimensions(number, features, side)
    if latent_dim > most:
        what = f"{number} images" if side == 1 else f"the {side}x{side} patches of {number} images"
        remedy = f"a PCA of {what} has at most {most} dimensions. Give fewer, or --model.init random"
        raise InputError("latent_dim", latent_dim, remedy)


def max_pca_images(n_pca: int, pixels: int) -> int:
    """``n_pca``, or the number of images of ``pixels`` values each that a PCA can be fitted to in memory."""
    return min(n_pca, MAX_PCA_ELEMENTS // pixels)


def fit_pca_of_batches(
    batches: Iterable[tuple[Tensor, Tensor]],
    latent_dim: int,
    n_fit: int,
    whiten: bool = False,
    side: int = 1,
    device: torch.device | str = "cpu",
) -> tuple[ImagePCA, Iterator[tuple[Tensor, Tensor]]]:
    """Fit a PCA on the first ``n_fit`` images of batches of uint8 images (b, C, H, W) and their rows.

    Returns the PCA, and all the batches: what the PCA was fitted on is held in memory, and no batch is read twice.
    """
    batches, held, num_images = iter(batches), [], 0
    for batch in batches:
        held.append(batch)
        num_images += len(batch[0])
        if num_images >= n_fit:
            break
    num_images = min(n_fit, num_images)
    sample = torch.empty(num_images * side**2, held[0][0][0].numel() // side**2, device=device)
    first = 0
    for images, _ in held:
        some = patches(from_uint8(images[: num_images - first // side**2].to(device)), side)  # to the device as uint8
        sample[first : first + len(some)] = some
        first += len(some)
    return fit_pca_rows(sample, latent_dim, held[0][0].shape[1], whiten, side), itertools.chain(held, batches)


def fit_pca(images: Tensor, latent_dim: int, whiten: bool = False, side: int = 1) -> ImagePCA:
    """Fit a PCA on images (n, C, H, W), uint8, on their device.

    Args:
        images: the first of the training images.
        latent_dim: D, a multiple of ``side**2``.
        whiten: scales the coordinates to equal variances of 1 / (2.25 D), so that few codes lie outside the unit ball.
        side: see ImagePCA.

    Raises:
        InputError: for more dimensions than a PCA of these images has.
    """
    most = max_dimensions(len(images), images[0].numel(), side)
    if latent_dim > most:
        remedy = f"a PCA of {len(images)} images has at most {most} dimensions. Train on more images"
        raise InputError("latent_dim", latent_dim, remedy)
    return fit_pca_rows(patches(from_uint8(images), side), latent_dim, images.shape[1], whiten, side)


def fit_comparable_pca(images: Tensor, latent_dim: int, side: int = 1) -> ImagePCA | None:
    """Fit the PCA that a model with codes of D dimensions is compared with, on images (n, C, H, W), uint8.

    It is that of whole images or, if there are not twice as many as dimensions, of the patches at the ``side * side``
    places of a code. None if these are too few as well: such a PCA would remember each of them.
    """
    for places in dict.fromkeys((1, side)):
        if 2 * latent_dim <= len(images) * places**4:  # see max_dimensions
            return fit_pca(images, latent_dim, side=places)
    return None


def fit_pca_rows(rows: Tensor, latent_dim: int, channels: int = 3, whiten: bool = False, side: int = 1) -> ImagePCA:
    """Fit a PCA on rows (n, F) of images or patches, see ``fit_pca``; overwrites them.

    On the CPU this is scikit-learn's PCA, elsewhere torch's. Many rows get one power iteration with 40 extra dimensions
    instead of scikit-learn's seven with ten: the explained variance is within 0.3 %, in less than a third of the time.
    """
    dimensions = latent_dim // side**2
    if rows.device.type == "cpu":
        from sklearn.decomposition import PCA  # half a second of import that --help need not wait for

        quick: dict[str, Any] = {"iterated_power": 1, "n_oversamples": N_OVERSAMPLES} if len(rows) > 8192 else {}
        pca = PCA(dimensions, copy=False, random_state=0, **quick).fit(rows.numpy())
        fitted = (pca.mean_, pca.components_.T, pca.explained_variance_)
        mean, axes, variances = (torch.from_numpy(part) for part in fitted)
    else:
        mean, axes, variances = _lowrank_pca(rows, dimensions)
    if whiten:
        axes = axes / (1.5 * latent_dim**0.5 * variances.clamp(min=torch.finfo(variances.dtype).eps).sqrt())
    return ImagePCA(mean, axes.contiguous(), channels, side)


def _lowrank_pca(sample: Tensor, latent_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, axes (features, D) and variances (D,) of rows, by torch.pca_lowrank; overwrites the rows.

    Each call gives the same result, so that a later fit gives codes of the same space: the seed is fixed, and the
    largest entry of an axis is positive, as in scikit-learn.
    """
    mean = sample.mean(dim=0)
    sample -= mean
    width = min(latent_dim + N_OVERSAMPLES, *sample.shape)
    with torch.random.fork_rng([sample.device] if sample.is_cuda else []):
        torch.manual_seed(0)
        _, singular, axes = torch.pca_lowrank(sample, width, center=False, niter=1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    axes = axes * largest.sign()
    return mean, axes[:, :latent_dim], singular[:latent_dim].square() / max(len(sample) - 1, 1)
