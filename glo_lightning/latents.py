"""The latent table: the set that its codes stay in, and where they begin."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from glo_lightning.distributed import is_first, raise_on_all_ranks
from glo_lightning.errors import InputError, check_at_least
from glo_lightning.images import from_uint8

log = logging.getLogger(__name__)

Init = Literal["pca", "random"]
Constraint = Literal["ball", "sphere", "none"]
Projection = Callable[[Tensor], Tensor]  # codes (..., D) to the nearest ones of their set


def to_ball(codes: Tensor) -> Tensor:
    """Projects codes (..., D) into the unit ball: ``z / max(|z|, 1)``."""
    return codes / torch.linalg.vector_norm(codes, dim=-1, keepdim=True).clamp(min=1)


def to_sphere(codes: Tensor) -> Tensor:
    """Projects codes (..., D) onto the unit sphere: ``z / |z|`` (a code of zeros stays where it is)."""
    tiny = torch.finfo(codes.dtype).tiny
    return codes / torch.linalg.vector_norm(codes, dim=-1, keepdim=True).clamp(min=tiny)


def identity(codes: Tensor) -> Tensor:
    return codes


PROJECTIONS: dict[Constraint, Projection] = {"ball": to_ball, "sphere": to_sphere, "none": identity}


def random_codes(num_images: int, latent_dim: int) -> Tensor:
    """Standard normal codes (N, D), drawn from torch's global generator."""
    return torch.randn(num_images, latent_dim)


def per_sample_gradients(codes: Tensor, batches_per_step: float = 1) -> Tensor:
    """The same codes (B, D), with the gradients of each image's own loss where the loss is a mean over the images.

    Args:
        codes: looked up in the table.
        batches_per_step: over which the mean goes as well, where gradients are accumulated.
    """
    if codes.requires_grad:
        images_per_step = len(codes) * batches_per_step
        codes.register_hook(lambda gradient: gradient * images_per_step)
    return codes


MAX_PCA_ELEMENTS = 24_576 * 3 * 128**2  # in the table that a PCA is fitted to: 4.8 GB as float32
N_OVERSAMPLES = 40  # dimensions of a randomized PCA besides those asked for


def check_pca(latent_dim: int, num_images: int, n_pca: int, image_size: int, channels: int = 3) -> None:
    """Raises InputError for more dimensions than a PCA of so many images has."""
    check_at_least("n_pca", n_pca, 1)
    most = min(num_images, n_pca, channels * image_size**2)
    if latent_dim > most:
        remedy = f"a PCA of {most} images has at most {most} dimensions; give fewer, or init random"
        raise InputError("latent_dim", latent_dim, remedy)


def max_pca_images(n_pca: int, numbers: int) -> int:
    """``n_pca``, or as many images, of so many numbers each, as a PCA of can be fitted to in memory."""
    return min(n_pca, MAX_PCA_ELEMENTS // numbers)


class PCACoordinates(NamedTuple):
    """The map from images to codes that a PCA init makes: ``(x - mean) @ axes``.

    Attributes:
        mean: (C * H * W,), of pixels in [-1, 1].
        axes: (C * H * W, D).
    """

    mean: Tensor
    axes: Tensor

    def of(self, images: Tensor) -> Tensor:
        """Codes (b, D) of uint8 images (b, C, H, W)."""
        return (flatten_images(images.to(self.mean.device)) - self.mean) @ self.axes


def pca_codes(
    batches: Iterable[Tensor],
    latent_dim: int,
    n_fit: int,
    whiten: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yields the PCA coordinates of all images, (b, D) for each batch in turn, in one pass over the batches.

    The PCA is fitted on the first ``n_fit`` images. Those alone are held in memory, so the peak does not grow with
    the number of images.

    Args:
        batches: uint8 images (b, C, H, W) in row order.
        latent_dim: D, at most ``min(n_fit, C * H * W)``.
        n_fit: images to fit on, or as many as there are.
        whiten: scales the coordinates to equal variances of 1 / (2.25 D), so that few codes lie outside the unit ball.
        device: where to fit.
    """
    batches, held = iter(batches), []
    for images in batches:
        held.append(images)
        if sum(map(len, held)) >= n_fit:
            break
    sample = torch.empty(min(n_fit, sum(map(len, held))), held[0][0].numel(), device=device)
    first = 0
    for images in held:
        some = flatten_images(images[: len(sample) - first].to(device))  # to the device as uint8
        sample[first : first + len(some)] = some
        first += len(some)
    coordinates = fit_pca(sample, latent_dim, whiten)
    del sample
    for images in itertools.chain(held, batches):
        yield coordinates.of(images)


@torch.no_grad()
def init_from_pca(
    table: Tensor, loader: Callable[[], Iterable[tuple[Tensor, Tensor]]], project: Projection, n_pca: int, whiten: bool
) -> None:
    """Writes the projected PCA coordinates of its image into every row of the table (N, D), in the first process.

    Args:
        table: the codes; the PCA is fitted on their device.
        loader: gives uint8 images (b, C, H, W) and their rows (b,), in order.
        project, n_pca, whiten: see ``module.GLO``.
    """
    with raise_on_all_ranks():
        if is_first():
            _write_pca_codes(table, loader(), project, n_pca, whiten)


def _write_pca_codes(
    table: Tensor, batches: Iterable[tuple[Tensor, Tensor]], project: Projection, n_pca: int, whiten: bool
) -> None:
    began = time.monotonic()
    rows: list[Tensor] = []

    def images() -> Iterator[Tensor]:
        for batch, index in batches:
            rows.append(index.to(table.device))
            yield batch

    for number, codes in enumerate(pca_codes(images(), table.shape[1], n_pca, whiten, table.device)):
        table[rows[number]] = project(codes.to(table))
    log.info("PCA init: wrote %d codes in %.1f s", sum(map(len, rows)), time.monotonic() - began)


def fit_pca(sample: Tensor, latent_dim: int, whiten: bool = False) -> PCACoordinates:
    """Fits a PCA on rows (n, features), which it overwrites, on the device where they are.

    On the CPU scikit-learn does it. On many rows it makes one power iteration with 40 spare dimensions: they explain
    within 0.3 % of the variance that its default of seven with ten explains, in less than a third of the time.
    scikit-learn has no way to an accelerator without experimental settings; there torch's own randomized PCA does it.
    """
    if sample.device.type == "cpu":
        from sklearn.decomposition import PCA  # half a second of import that --help need not wait for

        quick: dict[str, Any] = {"iterated_power": 1, "n_oversamples": N_OVERSAMPLES} if len(sample) > 8192 else {}
        pca = PCA(latent_dim, copy=False, random_state=0, **quick).fit(sample.numpy())
        fitted = (pca.mean_, pca.components_.T, pca.explained_variance_)
        mean, axes, variances = (torch.from_numpy(part) for part in fitted)
    else:
        mean, axes, variances = _lowrank_pca(sample, latent_dim)
    if whiten:
        axes = axes / (1.5 * latent_dim**0.5 * variances.clamp(min=torch.finfo(variances.dtype).eps).sqrt())
    return PCACoordinates(mean, axes.contiguous())


def _lowrank_pca(sample: Tensor, latent_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, axes (features, D) and variances (D,) of rows, by torch.pca_lowrank; overwrites the rows.

    The same at each call, so that a later fit gives codes of the space that a run began in: its random numbers are its
    own, and the largest entry of an axis is positive, as scikit-learn has it.
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


def flatten_images(images: Tensor) -> Tensor:
    """uint8 images (b, C, H, W) -> float32 rows (b, C * H * W) in [-1, 1]."""
    return from_uint8(images.flatten(1))
