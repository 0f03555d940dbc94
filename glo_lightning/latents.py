"""The latent table: the constraint on its codes, and their initial values."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from glo_lightning.distributed import is_first, raise_on_all_ranks
from glo_lightning.generator import BeginsAtPCA, code_side
from glo_lightning.images import from_uint8
from glo_lightning.pca import fit_pca_of_batches

log = logging.getLogger(__name__)

Init = Literal["pca", "random"]
Constraint = Literal["ball", "sphere", "none"]
Projection = Callable[[Tensor], Tensor]  # codes (..., D) to the nearest ones that satisfy the constraint


def to_ball(codes: Tensor) -> Tensor:
    """Project codes (..., D) into the unit ball: ``z / max(|z|, 1)``."""
    return codes / torch.linalg.vector_norm(codes, dim=-1, keepdim=True).clamp(min=1)


def to_sphere(codes: Tensor) -> Tensor:
    """Project codes (..., D) onto the unit sphere: ``z / |z|``; a code of zeros stays zero."""
    tiny = torch.finfo(codes.dtype).tiny
    return codes / torch.linalg.vector_norm(codes, dim=-1, keepdim=True).clamp(min=tiny)


def identity(codes: Tensor) -> Tensor:
    return codes


PROJECTIONS: dict[Constraint, Projection] = {"ball": to_ball, "sphere": to_sphere, "none": identity}


def per_sample_gradients(codes: Tensor, batches_per_step: float = 1) -> Tensor:
    """Return the codes (B, D); their gradients become those of each image's own loss, not of the mean over images.

    The mean goes over ``batches_per_step`` batches where gradients are accumulated.
    """
    if codes.requires_grad:
        images_per_step = len(codes) * batches_per_step
        codes.register_hook(lambda gradient: gradient * images_per_step)
    return codes


@torch.no_grad()
def init_from_pca(
    table: Tensor,
    loader: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    project: Projection,
    n_pca: int,
    whiten: bool,
    generator: nn.Module,
) -> None:
    """Set every row of the table (N, D) to the projected PCA coordinates of its image, in the first process.

    Args:
        table: the codes; the PCA is fitted on their device.
        loader: returns uint8 images (b, C, H, W) and their rows (b,), in order.
        project, n_pca, whiten: see ``module.GLO``.
        generator: is told of the PCA, if it ``BeginsAtPCA``.
    """
    with raise_on_all_ranks():
        if is_first():
            began, rows, device = time.monotonic(), 0, table.device
            pca, batches = fit_pca_of_batches(loader(), table.shape[1], n_pca, whiten, code_side(generator), device)
            for images, index in batches:
                table[index.to(device)] = project(pca.codes(from_uint8(images.to(device))).to(table))
                rows += len(index)
            if isinstance(generator, BeginsAtPCA):
                generator.begin_at_pca(pca)
            log.info("PCA init: wrote %d codes in %.1f s", rows, time.monotonic() - began)
