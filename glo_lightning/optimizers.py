"""The rates of a step, and what moves: SGD or AdamW for the generator, SGD or whitened steps for the table's rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from glo_lightning.class_path import find_class
from glo_lightning.distributed import gather_rows
from glo_lightning.errors import check_choice

Schedule = Literal["constant", "cosine"]
GeneratorOptimizer = Literal["sgd", "adamw"]


def rate_factor(schedule: Schedule, step: float, steps: float) -> float:
    """What the learning rates are multiplied with at that step of a run of so many: 1, or a cosine from 1 to 0."""
    if schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1.0))


class RowSGD(torch.optim.Optimizer):
    """SGD for sparse gradients, whose rows are those of all processes, beside an optimizer for dense ones.

    ``find_optimizer`` joins the two. A subclass moves the rows by another rule: it overrides ``step_rows``.

    Attributes:
        rows_by_rank: how many rows each process brings to the next step, where that is known; see ``gather_rows``.
    """

    rows_by_rank: Sequence[int] | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tables = [
            (parameter, gather_rows(parameter.grad, self.rows_by_rank), group["lr"])
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        for table, gradient, rate in tables:
            self.step_rows(table, gradient, rate)
            table.grad = None
        super().step()
        for table, gradient, _ in tables:
            table.grad = gradient  # whose rows are to be projected
        return loss

    def step_rows(self, table: Tensor, gradient: Tensor, rate: float) -> None:
        """Moves the rows of a table (N, D) that have a gradient, sparse (N, D) with each row at most once."""
        table.add_(gradient, alpha=-rate)


class WhitenedRows(RowSGD):
    """SGD on the rows with whitened gradients: every direction of the latent space is learned equally fast.

    A row z_i moves by ``-lr * C^(-1/2) g_i / sqrt(D)``, where C is an average of g g^T over the rows of the latest
    batches: the full matrix of Adagrad (Duchi, Hazan and Singer, 2011), with an average for the sum, and one for all
    rows. So ``lr`` is the length of a row's step, root mean square. A row has one step in an epoch: with SGD
    the directions that change images most are learned in a few, the others take many more than there are.

    Attributes:
        decay: of the average, for each step.
        floor: of C's eigenvalues, as a fraction of the largest.
    """

    decay, floor = 0.98, 1e-4

    def step_rows(self, table: Tensor, gradient: Tensor, rate: float) -> None:
        rows, values = gradient._indices()[0], gradient._values()
        state, dim = self.state[table], table.shape[1]
        if not state:
            state["count"], state["covariance"] = 0, table.new_zeros(dim, dim)
        covariance = values.T @ values / len(values)
        # A loss that is not finite is FiniteLoss's to report; eigh would raise before it.
        covariance = torch.where(covariance.isfinite().all(), covariance, state["covariance"])
        state["covariance"] = self.decay * state["covariance"] + (1 - self.decay) * covariance
        state["count"] += 1
        if state["count"] <= 10 or state["count"] % 10 == 0:  # it changes slowly, and an accelerator waits for eigh
            average = state["covariance"].float() / (1 - self.decay ** state["count"])  # eigh knows no bfloat16
            variances, axes = torch.linalg.eigh(average)
            least = (self.floor * variances[-1]).clamp(min=torch.finfo(variances.dtype).tiny)
            state["whitening"] = (axes * variances.clamp(min=least).rsqrt() @ axes.T).to(values.dtype)
        table[rows] -= rate / dim**0.5 * (values @ state["whitening"])


class AdamW(torch.optim.AdamW):
    """torch's, with an average of the squares over some hundred steps, and one pass over the weights."""

    def __init__(self, params: Any, lr: float = 1e-3):
        super().__init__(params, lr, betas=(0.9, 0.99))
        for group in self.param_groups:  # not as an argument, by which AMP leaves it the scaling, of the rows too
            group["fused"] = all(parameter.device.type in ("cpu", "cuda") for parameter in group["params"])


ROW_RULES: dict[str, type[RowSGD]] = {"sgd": RowSGD, "whitened": WhitenedRows}
GENERATOR_RULES: dict[GeneratorOptimizer, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": AdamW}
GENERATOR_RATES: dict[GeneratorOptimizer, float] = {"sgd": 1.0, "adamw": 0.003}


def find_optimizer(rows: str, generator: GeneratorOptimizer = "sgd") -> type[Any]:
    """The class of an optimizer, made with (params, lr), that moves rows and generator by these rules.

    Args:
        rows: ``sgd``, ``whitened`` or the path of a subclass of RowSGD.
        generator: ``sgd`` or ``adamw``.

    Raises:
        InputError: for a name that is none of these.
    """
    check_choice("generator_optimizer", generator, GeneratorOptimizer)
    remedy = f"give {', '.join(ROW_RULES)} or the path of a subclass of glo_lightning.optimizers.RowSGD"
    rule = ROW_RULES.get(rows) or find_class(rows, RowSGD, "latent_optimizer", remedy)
    kind = GENERATOR_RULES[generator]
    return type(kind.__name__, (rule, kind), {})
