"""Ways for the rows to learn that did not pay: Adam on each by itself, and codes that begin late."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glo_lightning.module import GLO
from glo_lightning.optimizers import RowSGD, rate_factor


class RowAdam(RowSGD):
    """Adam on the rows, each with its own step count.

    ``torch.optim.SparseAdam`` corrects its averages for the number of steps of the whole table, which is wrong for rows
    that are in one batch of an epoch: their first steps would be too small and later ones too large.

    Attributes:
        betas, eps: of Adam (Kingma and Ba, 2015).
    """

    betas, eps = (0.9, 0.999), 1e-8

    def step_rows(self, table: Tensor, gradient: Tensor, rate: float) -> None:
        rows, values = gradient._indices()[0], gradient._values()
        state = self.state[table]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(table), torch.zeros_like(table)
            state["count"] = table.new_zeros(len(table), 1)
        state["count"][rows] += 1
        corrected = []
        for name, beta, value in zip(("mean", "square"), self.betas, (values, values.square()), strict=True):
            state[name][rows] = average = beta * state[name][rows] + (1 - beta) * value
            corrected.append(average / (1 - beta ** state["count"][rows]))
        table[rows] -= rate * corrected[0] / (corrected[1].sqrt() + self.eps)


class LateGLO(GLO):
    """A GLO whose codes stay where they began until a fraction of the run; their schedule is that of what is left.

    Args:
        latent_from: the fraction, 0 or more and less than 1.
        arguments: of GLO.
    """

    def __init__(self, num_images: int, latent_from: float, **arguments: Any):
        super().__init__(num_images, **arguments)
        self.latent_from = latent_from

    def set_rates(self, step: int) -> None:
        super().set_rates(step)
        done = (step / self.total_steps - self.latent_from) / (1 - self.latent_from)  # of what is left
        factor = rate_factor(self.schedule, done, 1.0) if done >= 0 else 0.0
        self.optimizers().param_groups[1]["lr"] = self.latent_lr * factor  # type: ignore[union-attr]
        self.latents.requires_grad_(factor > 0)
