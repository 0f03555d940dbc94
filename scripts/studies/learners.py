"""Ways to learn the codes, to compare with one step of SGD in a visit: equal_seconds.py codes

Each is a GLO whose rows are learned otherwise; attributes that ``CODES`` of equal_seconds.py sets are said with each.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from glo_lightning.generator import Generator
from glo_lightning.module import GLO


class FreshSteps(GLO):
    """Several steps of SGD for the codes in a visit, the generator's step after them (Han et al., 1606.08571).

    Alternating back-propagation: each step sees what the generator makes of the codes that the last one left.
    """

    fresh = 4

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, index = batch
        rate = self.optimizers(use_pl_optimizer=False).param_groups[1]["lr"]  # type: ignore[union-attr]
        codes = self.latents.weight[index].detach()
        for _ in range(self.fresh):
            codes.requires_grad_()
            (gradient,) = torch.autograd.grad(len(codes) * self.objective(codes, images), codes)
            codes = self.project(codes.detach() - rate * gradient)
        self.latents.weight.data[index] = codes
        return self.objective(codes, images)


class GaussNewton(GLO):
    """Steps ``-lr (M + damping tr(M) / D)^-1 g``, M = J^T J / P of the generator's Jacobian, for P values of an image.

    J^T v for random signs v gives vectors u with E[u u^T] = M. M is ``shared``: an average over the latest batches, for
    all rows, from one v for an image; or each row's own, of rank ``probes``.
    """

    shared, probes, damping, decay = True, 4, 0.1, 0.98
    metric: Tensor
    inverse: Tensor

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        generated = self.generator(codes)
        if codes.requires_grad:
            signs = [torch.randn_like(generated).sign() for _ in range(1 if self.shared else self.probes)]
            found = [torch.autograd.grad(generated, codes, v, retain_graph=True)[0] for v in signs]
            vectors = torch.stack(found, 1).float() / generated[0].numel() ** 0.5  # (B, K, D)
            step = self._shared_step if self.shared else self._row_step
            codes.register_hook(lambda gradient: step(vectors, gradient))
        return self.loss(generated, images)

    def _shared_step(self, vectors: Tensor, gradient: Tensor) -> Tensor:
        rows = vectors.flatten(0, 1)
        number = getattr(self, "number", 0)
        metric = rows.T @ rows / len(rows)
        self.metric = torch.lerp(metric, self.metric, self.decay) if number else metric
        if number < 10 or number % 10 == 0:
            self.inverse = torch.linalg.inv(
                self.metric + self._damping(self.metric.trace()) * torch.eye(len(metric), device=metric.device)
            )
        self.number = number + 1
        return gradient @ self.inverse

    def _row_step(self, vectors: Tensor, gradient: Tensor) -> Tensor:
        """By the Woodbury identity: ``(c + U^T U)^-1 g = (g - U^T (c + U U^T)^-1 U g) / c``."""
        vectors = vectors / self.probes**0.5
        least = self._damping(vectors.square().sum((1, 2)).mean())
        inner = vectors @ vectors.mT + least * torch.eye(self.probes, device=vectors.device)
        known = torch.linalg.solve(inner, vectors @ gradient[:, :, None])
        return (gradient - (vectors.mT @ known)[:, :, 0]) / least

    def _damping(self, trace: Tensor) -> Tensor:
        return self.damping * trace / self.latents.embedding_dim


class Variational(GLO):
    """Each code has widths of its own, one a dimension, as a variational auto-decoder has (Zadeh et al., 1903.00840).

    The generator sees ``z + w e``; ``weight`` times the divergence from a Gaussian of the codes' variance, over D, is
    added to the loss. Widths begin at a tenth of the codes' deviation, and learn by SGD of their logarithms, whose rate
    is ``width_rate`` times that of the codes.
    """

    weight, width_rate = 0.01, 1000.0

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.std = self.latents.weight.detach().std(dim=0)
        self.log_widths = (self.std / 10).log().repeat(len(self.latents.weight), 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.index = batch[1]
        return super().training_step(batch, batch_idx)

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        log_widths = self.log_widths[self.index].requires_grad_()
        log_widths.register_hook(self._learn_widths)
        widths = log_widths.exp()
        spread = (codes.square() + widths.square()) / self.std.square()
        divergence = (spread - 1).mean() / 2 - (log_widths - self.std.log()).mean()
        return super().objective(codes + widths * torch.randn_like(codes), images) + self.weight * divergence

    def _learn_widths(self, gradient: Tensor) -> None:
        rate = self.optimizers(use_pl_optimizer=False).param_groups[1]["lr"]  # type: ignore[union-attr]
        self.log_widths[self.index] -= (self.width_rate * rate * len(gradient) * gradient).clamp(-0.5, 0.5)


class MixtureGenerator(Generator):
    """DCGAN with a mixture of Gaussians beside it, for ``MixturePrior``."""

    def __init__(self, latent_dim: int, image_size: int, width: int, channels: int = 3, components: int = 20):
        super().__init__(latent_dim, image_size, width, channels)
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_stds = nn.Parameter(torch.zeros(components, latent_dim))
        self.log_weights = nn.Parameter(torch.zeros(components))

    def log_density(self, codes: Tensor) -> Tensor:
        """(B,), of scaled codes (B, D)."""
        away = (codes[:, None] - self.means) / self.log_stds.exp()
        inside = -0.5 * (away.square() + math.log(2 * math.pi)).sum(2) - self.log_stds.sum(1)
        return (inside + self.log_weights.log_softmax(0)).logsumexp(1)


class MixturePrior(GLO):
    """Learns a mixture of Gaussians with the codes, which are drawn to it (DGD, Schuster and Krogh, 2110.06672).

    ``weight`` times its negative log-density over D is added to the loss; the components begin at random codes.
    """

    weight = 0.1

    def on_fit_start(self) -> None:
        super().on_fit_start()
        assert isinstance(self.generator, MixtureGenerator)
        table = self.latents.weight.detach()
        self.std, self.mean = torch.std_mean(table, dim=0)
        some = torch.randperm(len(table))[: len(self.generator.means)]
        self.generator.means.data[: len(some)] = (table[some] - self.mean) / self.std

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        density: Any = self.generator.log_density((codes - self.mean) / self.std)  # type: ignore[operator]
        return super().objective(codes, images) - self.weight * density.mean() / codes.shape[1]
