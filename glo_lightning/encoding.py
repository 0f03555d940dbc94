"""Codes for images that own no row: gradient descent on the codes, with the generator as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from glo_lightning.errors import check_choice
from glo_lightning.latents import Projection, fit_pca, flatten_images, random_codes

STARTS = ("pca", "nearest", "mean", "random")
CHUNK = 16  # codes in a batch, always: other sizes round otherwise, and an image has one code in any company
ACCELERATOR_CHUNK = 256  # likewise, where sixteen would leave the device idle
EVAL_EVERY = 10  # steps between two looks at the losses
TRIAL_STEPS = 30  # in which the starts of an image are told apart
RATE = 0.1  # Adam's, in units of a code's spread in the unit ball, D ** -0.5
BETAS = (0.9, 0.999)  # likewise
WARM_START_BETAS = (0.5, 0.9)  # likewise, from an encoder's answer: what came before is soon forgotten
PATIENCE = 3  # looks without gain after which an image's descent ends

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
    """Finds the codes (M, D) whose images have the lowest loss, and penalty, each image's alone.

    Every start is followed for 30 steps; each image's best goes on for ``steps`` at most, until 30 in a row
    bring it no more. Each step is one of Adam, its rate falling as a cosine to zero, and a projection as in training.
    ``GLO.encode`` gives a model's own generator, loss and projection.

    Args:
        generator: in eval mode; its weights stay as they are.
        images: (M, C, H, W) in [-1, 1], on the generator's device.
        starts: (M, S, D), S starting codes for each image; see ``starting_codes``.
        loss: maps (generated, images) to a mean over the batch; ``torch.vmap`` makes each image's own of it.
        project: brings codes (B, D) back into their set.
        betas: Adam's; ``WARM_START_BETAS`` for a few steps from codes that are nearly right.
        penalty: maps codes (B, D) to what is added to each one's loss, (B,).
    """
    number, per_image, latent_dim = starts.shape
    chunk = CHUNK if images.device.type == "cpu" else ACCELERATOR_CHUNK
    descent = _Descent(generator, loss, penalty, project, RATE * latent_dim**-0.5, betas, chunk)
    with tqdm(total=number, unit=" images", disable=None if number > chunk else True) as bar:
        chosen = []
        for first in range(0, number, chunk):
            some = slice(first, first + chunk)
            codes = starts[some, 0]
            if per_image > 1:
                trials = [descent(images[some], starts[some, s], TRIAL_STEPS) for s in range(per_image)]
                losses = torch.stack([reached for _, reached in trials])
                best = losses.argmin(dim=0)
                codes = torch.stack([code for code, _ in trials])[best, torch.arange(len(best), device=best.device)]
            chosen.append(descent(images[some], codes, steps)[0])
            bar.update(len(codes))
    return torch.cat(chosen)


class _Descent(NamedTuple):
    """Gradient descent on codes, for at most ``chunk`` images at once."""

    generator: Generate
    loss: Loss
    penalty: Penalty | None
    project: Projection
    rate: float
    betas: tuple[float, float]
    chunk: int

    def __call__(self, images: Tensor, codes: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The best codes (m, D) on the way from those given, and their losses (m,)."""
        number = len(images)
        with torch.inference_mode(False), torch.enable_grad():
            fill = torch.arange(self.chunk, device=images.device) % number
            images, codes = images[fill].clone(), codes[fill].clone()
            codes = self.project(codes).requires_grad_()
            best, lowest = codes.detach().clone(), codes.new_full((self.chunk,), torch.inf)
            patience = torch.full((self.chunk,), PATIENCE, device=images.device)
            optimizer = torch.optim.Adam([codes], lr=self.rate, betas=self.betas)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for step in range(steps + 1):
                generated = self.generator(codes)
                added = self.penalty(codes) if self.penalty else codes.new_zeros(self.chunk)
                if step % EVAL_EVERY == 0 or step == steps:
                    losses = _losses(self.loss, generated.detach(), images) + added.detach()
                    better, falling = losses < lowest, losses < 0.999 * lowest
                    better &= patience > 0
                    best = torch.where(better[:, None], codes.detach(), best)
                    lowest = torch.where(better, losses, lowest)
                    patience = torch.where(patience > 0, torch.where(falling, PATIENCE, patience - 1), 0)
                    if step == steps or not bool((patience > 0).any()):
                        break
                total = self.loss(generated, images) * self.chunk + added.sum()
                (codes.grad,) = torch.autograd.grad(total, codes)
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    codes.copy_(self.project(codes))
        return best[:number], lowest[:number]


def _losses(loss: Loss, generated: Tensor, images: Tensor) -> Tensor:
    """The loss of each image by itself, (B,)."""
    return torch.vmap(lambda *pair: loss(pair[0][None], pair[1][None]))(generated, images)


def starting_codes(
    table: Tensor,
    training: Tensor,
    images: Tensor,
    names: Sequence[str] = STARTS,
    n_pca: int | None = None,
    whiten: bool = False,
    seed: int = 0,
) -> Tensor:
    """Starting codes (M, S, D) for images (M, C, H, W) in [-1, 1].

    Args:
        table: the training images' codes (N, D).
        training: the training images in row order, (n, C, H, W), uint8; all, or the first ``n_pca`` of them.
        names: any of: ``pca``, the images' coordinates as the PCA init has them; ``nearest``, the code of the training
            image with the smallest squared error; ``mean``, of the training codes; ``random``, one normal vector.
        n_pca, whiten: of the PCA, see ``module.GLO``.
        seed: of ``random``; all images get the same vector, so that none depends on its company.

    Raises:
        InputError: for another name.
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
                starts.append(random_codes(1, latent_dim).to(table).expand(number, -1))
        elif name == "nearest":
            starts.append(table[_nearest(training, images).to(table.device)])
        else:
            starts.append(_pca_coordinates(training[:n_pca], images, latent_dim, whiten))
    return torch.stack(starts, dim=1)


def _nearest(training: Tensor, images: Tensor) -> Tensor:
    """The rows (M,) of the training images (uint8) that have the smallest squared error."""
    wanted = images.flatten(1)
    lowest = torch.full((len(images),), torch.inf, device=images.device)
    rows = torch.zeros(len(images), dtype=torch.long, device=images.device)
    for first in range(0, len(training), 1024):
        some = flatten_images(training[first : first + 1024].to(images.device))
        distance, row = (some.square().sum(dim=1) - 2 * wanted @ some.T).min(dim=1)
        rows = torch.where(distance < lowest, first + row, rows)
        lowest = torch.minimum(lowest, distance)
    return rows


def _pca_coordinates(training: Tensor, images: Tensor, latent_dim: int, whiten: bool) -> Tensor:
    mean, axes = fit_pca(flatten_images(training.to(images.device)), latent_dim, whiten)
    return (images.flatten(1) - mean) @ axes
