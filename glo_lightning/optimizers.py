"""The learning rates of a step, the generator's optimizer, and those of the table's rows: SGD, or whitened steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.memory import check_fits
from glo_lightning.parts import make_part, trying

Schedule = Literal["constant", "cosine"]


def lr_factor(schedule: Schedule, step: float, steps: float) -> float:
    """The factor on the learning rates at a step of a run of ``steps``: 1, or a cosine from 1 to 0."""
    if schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1.0))


def scale_lrs(groups: list[dict[str, Any]], factor: float, last: dict[int, float]) -> None:
    """Sets the learning rate of each group of an optimizer to its initial one times the factor.

    ``last`` are the rates that this has set last, by the group's number; updated. Where a callback has set another one
    since, that is taken, and the schedule continues from there.
    """
    for number, group in enumerate(groups):
        if factor and group["lr"] != last.get(number, group["lr"]):
            group["initial_lr"] = group["lr"] / factor
        group["lr"] = last[number] = group.setdefault("initial_lr", group["lr"]) * factor


def make_optimizer(description: Mapping[str, Any], weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Makes the optimizer of the generator's weights, one group named ``generator``.

    When it loads the state of a checkpoint, it keeps its own options, such as the learning rate. For the description
    see ``parts.describe_part``.

    Raises:
        InputError: for a class that cannot be made with these arguments, or that dense gradients and ``step()`` do not
            suffice for, such as SparseAdam and LBFGS.
    """

    def make(weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        group = {"params": list(weights), "name": "generator"}
        return make_part(description, torch.optim.Optimizer, "optimizer", [group])

    optimizer = make(weights)
    trial = nn.Parameter(torch.zeros(2, 2))
    trial.grad = torch.zeros_like(trial)
    remedy = "Give another, such as AdamW"
    with trying("optimizer", description["class_path"], "makes no step of dense gradients", remedy):
        make([trial]).step()
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]

    def keep_options(loaded: torch.optim.Optimizer) -> None:
        for group, own in zip(loaded.param_groups, options, strict=True):
            group.pop("initial_lr", None)  # of the checkpoint's schedule
            group.update(own)

    optimizer.register_load_state_dict_post_hook(keep_options)
    return optimizer


class RowSGD(nn.Module):
    """SGD on the rows of a table (N, D) that have a gradient.

    A subclass overrides ``update_rows``; its state is its buffers.
    """

    def __init__(self, latent_dim: int):
        super().__init__()

    def update_rows(self, table: Tensor, gradient: Tensor, lr: float) -> None:
        """Moves rows of a table (N, D), in place, at the learning rate of this step.

        The gradient is sparse, (N, D), with each row at most once, and is that of each image's own loss.
        """
        table.add_(gradient, alpha=-lr)


class WhitenedRows(RowSGD):
    """SGD with whitened gradients: every direction of the latent space is learned equally fast.

    A row z_i moves by ``-lr * C^(-1/2) g_i / sqrt(D)``, where C is a running average of g g^T over the rows of recent
    batches. This is full-matrix Adagrad (Duchi, Hazan and Singer, 2011) with an average in place of the sum, and one
    matrix for all rows. So ``lr`` is the root mean square length of a row's step. A row gets one step an epoch: with
    SGD the directions that change images most are learned in a few steps, and the others need far more than there are.

    Args:
        latent_dim: D.
        decay: of the average, for each step.
        floor: lower bound of C's eigenvalues, as a fraction of the largest.

    Raises:
        InputError: for a value out of range.
    """

    covariance: Tensor
    whitening: Tensor

    def __init__(self, latent_dim: int, decay: float = 0.98, floor: float = 1e-4):
        super().__init__(latent_dim)
        if not 0 <= decay < 1:
            raise InputError("decay", decay, "must be 0 or more, and less than 1")
        check_at_least("floor", floor, 0)
        check_fits("latent_dim", latent_dim, "two matrices of that size", 8 * latent_dim**2)
        self.decay, self.floor, self.count = decay, floor, 0
        self.register_buffer("covariance", torch.zeros(latent_dim, latent_dim))
        self.register_buffer("whitening", torch.zeros(latent_dim, latent_dim))

    def update_rows(self, table: Tensor, gradient: Tensor, lr: float) -> None:
        rows, values = gradient._indices()[0], gradient._values()
        covariance = values.T @ values / len(values)
        # A loss that is not finite is FiniteLoss's to report; eigh would raise before it.
        covariance = torch.where(covariance.isfinite().all(), covariance, self.covariance)
        self.covariance.copy_(self.decay * self.covariance + (1 - self.decay) * covariance)
        self.count += 1
        if self.count <= 10 or self.count % 10 == 0:  # C changes slowly, and an accelerator waits for eigh
            average = self.covariance.float() / (1 - self.decay**self.count)  # eigh does not take bfloat16
            variances, axes = torch.linalg.eigh(average)
            least = (self.floor * variances[-1]).clamp(min=torch.finfo(variances.dtype).tiny)
            self.whitening.copy_(axes * variances.clamp(min=least).rsqrt() @ axes.T)
        table[rows] -= lr / table.shape[1] ** 0.5 * (values @ self.whitening)

    def get_extra_state(self) -> int:
        return self.count

    def set_extra_state(self, state: int) -> None:
        self.count = state
