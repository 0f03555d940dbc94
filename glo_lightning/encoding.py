"""Codes for images that own no row: gradient descent on the codes, with the generator as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from glo_lightning.errors import check_choice
from glo_lightning.latents import as_rows, fit_pca, random_codes

if TYPE_CHECKING:
    from glo_lightning.module import GLO

STARTS = ("pca", "nearest", "mean", "random")
CHUNK = 16  # codes in a batch, always: other sizes round otherwise, and an image has one code in any company
CHECK = 10  # steps between two looks at the losses


def encode(
    model: GLO,
    images: Tensor,
    starts: Tensor,
    mask: Tensor | None = None,
    steps: int = 150,
    trial_steps: int = 30,
    rate: float = 0.1,
    progress: bool = False,
    loss: nn.Module | None = None,
) -> Tensor:
    """Finds the codes (M, D) whose images have the lowest loss, each image's alone.

    Every start is followed for ``trial_steps``; each image's best goes on for ``steps`` at most, until ten times
    ``CHECK`` steps bring it no more. Each step is one of Adam, its rate falling as a cosine to zero, and a projection
    as in training.

    Args:
        model: in eval mode; its weights stay as they are.
        images: (M, C, H, W) in [-1, 1], on the model's device.
        starts: (M, S, D), S starting codes for each image; see ``starting_codes``.
        mask: (C or 1, H, W), 1 where a pixel counts and 0 where it is missing.
        rate: Adam's, in units of a code's spread in the unit ball, ``D ** -0.5``.
        progress: shows a progress bar.
        loss: maps (fakes, images) to a mean over the batch; the model's own if not given.
    """
    loss = model.loss if loss is None else loss
    number, per_image, latent_dim = starts.shape
    rate = rate * latent_dim**-0.5
    codes = starts[:, 0]
    with tqdm(total=number, unit=" images", disable=not progress) as bar:
        chosen = []
        for first in range(0, number, CHUNK):
            some = slice(first, first + CHUNK)
            codes = starts[some, 0]
            if per_image > 1:
                trials = [
                    _descend(model, loss, images[some], starts[some, s], mask, trial_steps, rate)
                    for s in range(per_image)
                ]
                losses = torch.stack([reached for _, reached in trials])
                best = losses.argmin(dim=0)
                codes = torch.stack([code for code, _ in trials])[best, torch.arange(len(best), device=best.device)]
            chosen.append(_descend(model, loss, images[some], codes, mask, steps, rate)[0])
            bar.update(len(codes))
    return torch.cat(chosen)


def _descend(
    model: GLO, loss: nn.Module, images: Tensor, codes: Tensor, mask: Tensor | None, steps: int, rate: float
) -> tuple[Tensor, Tensor]:
    """The best codes (m, D) on the way, and their losses (m,), for at most CHUNK images."""
    number = len(images)
    with torch.inference_mode(False), torch.enable_grad():
        mask = torch.ones_like(images[0, :1]) if mask is None else mask.to(images, copy=True)
        fill = torch.arange(CHUNK, device=images.device) % number
        images, codes = (images * mask)[fill].clone(), codes[fill].clone()
        codes = model.project(codes).requires_grad_()
        best, lowest = codes.detach().clone(), codes.new_full((CHUNK,), torch.inf)
        patience = torch.full((CHUNK,), 3, device=images.device)
        optimizer = torch.optim.Adam([codes], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps + 1):
            fakes = model(codes) * mask
            if step % CHECK == 0 or step == steps:
                losses = _losses(loss, fakes.detach(), images)
                better, falling = losses < lowest, losses < 0.999 * lowest
                better &= patience > 0
                best[better], lowest[better] = codes.detach()[better], losses[better]
                patience = torch.where(patience > 0, torch.where(falling, 3, patience - 1), 0)
                if step == steps or not bool((patience > 0).any()):
                    break
            (codes.grad,) = torch.autograd.grad(loss(fakes, images) * CHUNK, codes)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                codes.copy_(model.project(codes))
    return best[:number], lowest[:number]


def _losses(loss: nn.Module, fakes: Tensor, images: Tensor) -> Tensor:
    """The loss of each image by itself, (B,)."""
    return torch.stack([loss(*pair) for pair in zip(fakes[:, None], images[:, None], strict=True)])


def starting_codes(
    model: GLO,
    training: Tensor,
    images: Tensor,
    names: Sequence[str] = STARTS,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Starting codes (M, S, D) for images (M, C, H, W) in [-1, 1].

    Args:
        model: its table holds the training images' codes.
        training: the training images in row order, (n, C, H, W), uint8; all, or the first ``model.n_pca`` of them.
        names: any of: ``pca``, the images' coordinates as the PCA start has them; ``nearest``, the code of the training
            image with the smallest squared error; ``mean``, of the training codes; ``random``, one normal vector.
        mask: (C or 1, H, W); missing pixels count as the training images' mean for ``pca``, and not at all for
            ``nearest``.
        seed: of ``random``; all images get the same vector, so that none depends on its company.

    Raises:
        InputError: for another name.
    """
    table = model.latents.weight
    number, latent_dim = len(images), table.shape[1]
    known = torch.ones_like(images[0, :1]) if mask is None else mask.to(images)
    starts: list[Tensor] = []
    for name in names:
        check_choice("starts", name, STARTS)
        if name == "mean":
            starts.append(table.mean(dim=0).expand(number, -1))
        elif name == "random":
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                starts.append(random_codes(1, latent_dim).to(table).expand(number, -1))
        elif name == "nearest":
            starts.append(table[_nearest(training, images, known).to(table.device)])
        else:
            starts.append(_pca_coordinates(model, training, images, known))
    return torch.stack(starts, dim=1)


def _nearest(training: Tensor, images: Tensor, known: Tensor) -> Tensor:
    """The rows (M,) of the training images (uint8) that have the smallest squared error in the known pixels."""
    known = known.expand_as(images[0]).flatten()
    wanted = images.flatten(1) * known
    lowest = torch.full((len(images),), torch.inf, device=images.device)
    rows = torch.zeros(len(images), dtype=torch.long, device=images.device)
    for first in range(0, len(training), 1024):
        some = as_rows(training[first : first + 1024].to(images.device)) * known
        distance, row = (some.square().sum(dim=1) - 2 * wanted @ some.T).min(dim=1)
        rows[distance < lowest] = first + row[distance < lowest]
        lowest = torch.minimum(lowest, distance)
    return rows


def _pca_coordinates(model: GLO, training: Tensor, images: Tensor, known: Tensor) -> Tensor:
    sample = as_rows(training[: model.n_pca].to(images.device))
    mean, axes = fit_pca(sample, model.latents.weight.shape[1], model.whiten)
    filled = torch.where(known.expand_as(images).flatten(1) > 0, images.flatten(1), mean)
    return (filled - mean) @ axes
