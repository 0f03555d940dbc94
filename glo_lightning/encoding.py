"""Codes for new images: gradient descent on the codes, with fixed generator weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glo_lightning.errors import InputError, check_choice
from glo_lightning.images import from_uint8
from glo_lightning.latents import Projection, identity
from glo_lightning.pca import fit_pca, max_dimensions
from glo_lightning.progress import Progress

STARTS = ("pca", "nearest", "mean", "random")
CHUNK = 16  # codes in every batch: rounding depends on its size, and a code must not depend on the other images
ACCELERATOR_CHUNK = 256  # the same on a GPU
EVAL_EVERY = 10  # steps between two evaluations of the losses
TRIAL_STEPS = 30  # of each start, before the best one is chosen
LR = 0.1  # of Adam, in units of D ** -0.5, the spread of a coordinate in the unit ball
BETAS = (0.9, 0.999)  # of Adam
WARM_START_BETAS = (0.5, 0.9)  # of Adam, for few steps from an encoder's codes
PATIENCE = 3  # evaluations without improvement after which an image's descent ends

Generate = Callable[[Tensor], Tensor]  # codes (B, D) to images (B, C, H, W)
Loss = Callable[[Tensor, Tensor], Tensor]  # (generated, images) to a mean over the batch
Penalty = Callable[[Tensor], Tensor]  # codes (B, D) to (B,)


def encode(
    generator: Generate,
    images: Tensor,
    starts: Tensor,
    loss: Loss,
    project: Projection,
    steps: int = 150,
    betas: tuple[float, float] = BETAS,
    penalty: Penalty | None = None,
) -> Tensor:
    """Find the codes (M, D) whose images have the lowest loss plus penalty; each image is encoded independently.

    Every start gets 30 steps of Adam; each image's best start gets up to ``steps`` more, until the loss has not
    improved for 30. The learning rate falls as a cosine to zero, and codes are projected after each step as in
    training. ``GLO.encode`` passes a model's own generator, loss and projection.

    Args:
        generator: in eval mode.
        images: (M, C, H, W) in [-1, 1], on the generator's device.
        starts: (M, S, D), S starting codes for each image; see ``starting_codes``.
        loss: maps (generated, images) to a mean over the batch; it must work under ``torch.vmap``.
        project: projection of codes (B, D).
        steps: largest number of steps from the best start.
        betas: of Adam.
        penalty: maps codes (B, D) to penalties (B,), which are added to the losses.
    """
    number, per_image, _ = starts.shape
    chunk, dtype = _chunk_size(images), starts.dtype
    starts = starts.to(torch.promote_types(dtype, torch.float32))  # in half, Adam's squared gradients would be zeros
    trials = per_image * (TRIAL_STEPS + 1) if per_image > 1 else 0
    passes = trials + steps + 1  # of the generator, for each chunk
    total, looks = math.ceil(number / chunk) * passes, {"unit": " steps", "leave": False}
    with Progress(total=total, desc="finding codes", hidden=number <= chunk, **looks) as bar:

        def generate(codes: Tensor) -> Tensor:
            bar.update()
            return generator(codes.to(dtype))

        descend = functools.partial(_descend, generate, loss, project, betas, penalty)
        chosen = []
        for first in range(0, number, chunk):
            some = slice(first, first + chunk)
            codes = starts[some, 0]
            if per_image > 1:
                tried = [descend(images[some], starts[some, s], TRIAL_STEPS) for s in range(per_image)]
                losses = torch.stack([reached for _, reached in tried])
                best = losses.argmin(dim=0)
                codes = torch.stack([code for code, _ in tried])[best, torch.arange(len(best), device=best.device)]
            chosen.append(descend(images[some], codes, steps)[0])
            bar.update(len(chosen) * passes - bar.n)  # a descent may end early
    return torch.cat(chosen).to(dtype)


def _chunk_size(images: Tensor) -> int:
    return CHUNK if images.device.type == "cpu" else ACCELERATOR_CHUNK


def _descend(
    generator: Generate,
    loss: Loss,
    project: Projection,
    betas: tuple[float, float],
    penalty: Penalty | None,
    images: Tensor,
    codes: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Descend from codes (m, D) of at most one chunk of images; return the best codes and their losses (m,)."""
    number, chunk, per_image_loss = len(images), _chunk_size(images), torch.vmap(loss)
    with torch.inference_mode(False), torch.enable_grad():
        fill = torch.arange(chunk, device=images.device) % number
        images, codes = images[fill].clone(), codes[fill].clone()
        codes = project(codes).requires_grad_()
        best, lowest = codes.detach().clone(), codes.new_full((chunk,), torch.inf)
        patience = torch.full((chunk,), PATIENCE, device=images.device)
        optimizer = torch.optim.Adam([codes], lr=LR * codes.shape[1] ** -0.5, betas=betas)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps + 1):
            generated = generator(codes)
            added = penalty(codes) if penalty else codes.new_zeros(chunk)
            if step % EVAL_EVERY == 0 or step == steps:
                losses = per_image_loss(generated.detach()[:, None], images[:, None]) + added.detach()
                better, falling = losses < lowest, losses < 0.999 * lowest
                better &= patience > 0
                best = torch.where(better[:, None], codes.detach(), best)
                lowest = torch.where(better, losses, lowest)
                patience = torch.where(patience > 0, torch.where(falling, PATIENCE, patience - 1), 0)
                if step == steps or not bool((patience > 0).any()):
                    break
            total = loss(generated, images) * chunk + added.sum()
            (codes.grad,) = torch.autograd.grad(total, codes)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                codes.copy_(project(codes))
    return best[:number], lowest[:number]


def starting_codes(
    table: Tensor,
    training: Tensor,
    images: Tensor,
    names: Sequence[str] = STARTS,
    n_pca: int | None = None,
    whiten: bool = False,
    side: int = 1,
    seed: int = 0,
) -> Tensor:
    """Compute starting codes (M, S, D) for images (M, C, H, W) in [-1, 1].

    Args:
        table: the training images' codes (N, D).
        training: the training images in row order, (n, C, H, W), uint8; all, or the first ``n_pca`` of them.
        names: any of ``pca``, the coordinates of the PCA init; ``nearest``, the code of the training image with the
            smallest squared error; ``mean``, of the training codes; ``random``, one normal vector for all images.
        n_pca, whiten, side: of the PCA, see ``module.GLO`` and ``pca.ImagePCA``.
        seed: of ``random``.

    Raises:
        InputError: for another name, and for ``pca`` of fewer images than it needs.
    """
    number, latent_dim = len(images), table.shape[1]
    starts: list[Tensor] = []
    for name in names:
        check_choice("starts", name, STARTS)
        if name == "mean":
            starts.append(table.mean(dim=0).expand(number, -1))
        elif name == "random":
            with torch.random.fork_rng(devices=[]):  # drawn on the CPU
                torch.manual_seed(seed)
                starts.append(torch.randn(1, latent_dim).to(table).expand(number, -1))
        elif name == "nearest":
            starts.append(table[nearest_images(training, images).to(table.device)])
        else:
            fitted = training[:n_pca]
            most = max_dimensions(len(fitted), fitted[0].numel(), side)
            if latent_dim > most:
                remedy = f"a PCA of {len(fitted)} images has at most {most} dimensions. Give mean or nearest"
                raise InputError("starts", name, f"codes have {latent_dim} dimensions, and {remedy}")
            starts.append(fit_pca(fitted.to(images.device), latent_dim, whiten, side).codes(images))
    return torch.stack(starts, dim=1)


def nearest_images(training: Tensor, targets: Tensor, operator: Generate = identity) -> Tensor:
    """Find the rows (M,) of the training images (uint8) with the smallest squared error to targets (M, ...).

    ``operator`` maps images in [-1, 1] to what targets are.
    """
    flat = targets.flatten(1)
    lowest = torch.full((len(flat),), torch.inf, device=flat.device)
    rows = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
    for first in range(0, len(training), 1024):
        references = operator(from_uint8(training[first : first + 1024].to(flat.device))).flatten(1)
        distance, row = (references.square().sum(dim=1) - 2 * flat @ references.T).min(dim=1)
        rows = torch.where(distance < lowest, first + row, rows)
        lowest = torch.minimum(lowest, distance)
    return rows
