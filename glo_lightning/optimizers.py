"""SGD for the generator, and what moves the rows of the latent table: SGD too, Adam, or SGD on whitened gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class SGDWithRows(torch.optim.SGD):
    """SGD for dense gradients; a sparse one moves its rows, which are distinct, as a subclass says."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tables = [
            (parameter, parameter.grad, group["lr"])
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        for table, gradient, rate in tables:
            self.step_rows(table, gradient._indices()[0], gradient._values(), rate)
            table.grad = None
        super().step()
        for table, gradient, _ in tables:
            table.grad = gradient
        return loss

    def step_rows(self, table: Tensor, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Moves rows (B,) of a table (N, D) by their gradient (B, D)."""
        raise NotImplementedError


class RowAdam(SGDWithRows):
    """Adam on the rows, each with its own step count.

    ``torch.optim.SparseAdam`` corrects its averages for the number of steps of the whole table, which is wrong for rows
    that are in one batch of an epoch: their first steps would be too small and later ones too large.

    Args:
        params, lr: as for SGD.
        betas: of Adam (Kingma and Ba, 2015).
        eps: of Adam.
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(params, lr)
        self.betas, self.eps = betas, eps

    def step_rows(self, table: Tensor, rows: Tensor, gradient: Tensor, rate: float) -> None:
        state = self.state[table]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(table), torch.zeros_like(table)
            state["count"] = table.new_zeros(len(table), 1)
        state["count"][rows] += 1
        corrected = []
        for name, beta, value in zip(("mean", "square"), self.betas, (gradient, gradient.square()), strict=True):
            state[name][rows] = average = beta * state[name][rows] + (1 - beta) * value
            corrected.append(average / (1 - beta ** state["count"][rows]))
        table[rows] -= rate * corrected[0] / (corrected[1].sqrt() + self.eps)


class WhitenedRows(SGDWithRows):
    """SGD on the rows with whitened gradients: every direction of the latent space is learned equally fast.

    A row z_i moves by ``-lr * C^(-1/2) g_i / sqrt(D)``, where C is an average of g g^T over the rows of the latest
    batches: the full matrix of Adagrad (Duchi, Hazan and Singer, 2011), with an average for the sum, and one for all
    rows. So ``lr`` is the length of a row's step, root mean square. A row has one step in an epoch: with SGD
    the directions that change images most are learned in a few, the others take many more than there are.

    Args:
        params, lr: as for SGD.
        decay: of the average, for each step.
        floor: of C's eigenvalues, as a fraction of the largest.
    """

    def __init__(self, params: Any, lr: float = 1e-3, decay: float = 0.98, floor: float = 1e-4):
        super().__init__(params, lr)
        self.decay, self.floor = decay, floor

    def step_rows(self, table: Tensor, rows: Tensor, gradient: Tensor, rate: float) -> None:
        state, dim = self.state[table], table.shape[1]
        if not state:
            state["count"], state["covariance"] = 0, table.new_zeros(dim, dim)
        covariance = gradient.T @ gradient / len(gradient)
        # A loss that is not finite is FiniteLoss's to report; eigh would raise before it.
        covariance = torch.where(covariance.isfinite().all(), covariance, state["covariance"])
        state["covariance"] = self.decay * state["covariance"] + (1 - self.decay) * covariance
        state["count"] += 1
        if state["count"] <= 10 or state["count"] % 10 == 0:  # it changes slowly, and an accelerator waits for eigh
            average = state["covariance"].float() / (1 - self.decay ** state["count"])  # eigh knows no bfloat16
            values, vectors = torch.linalg.eigh(average)
            least = (self.floor * values[-1]).clamp(min=torch.finfo(values.dtype).tiny)
            state["whitening"] = (vectors * values.clamp(min=least).rsqrt() @ vectors.T).to(gradient.dtype)
        table[rows] -= rate / dim**0.5 * (gradient @ state["whitening"])


OPTIMIZERS: dict[str, type[torch.optim.SGD]] = {"sgd": torch.optim.SGD, "adam": RowAdam, "whitened": WhitenedRows}
