"""A loss that is not finite: the run stops before the next checkpoint, or skips the step."""

from __future__ import annotations

import logging
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from glo_lightning.distributed import all_reduce_max, raise_on_all_ranks
from glo_lightning.errors import OnError, check_choice

log = logging.getLogger(__name__)


class FiniteLoss(Callback):
    """Stops a run whose loss is not finite, or skips the steps of such batches.

    ``raise`` checks every ``log_every_n_steps`` batches, at an epoch's end and before each checkpoint, so that no step
    waits for the GPU. ``skip`` checks before every step, which waits for the GPU. A batch whose loss or gradients are
    not finite then changes neither weights nor codes nor BatchNorm's averages. Its step counts, and a warning names it.

    Raises:
        FloatingPointError: with the step, the learning rates and the keys of the batch.
    """

    def __init__(self, on_nonfinite_loss: OnError = "raise"):
        check_choice("on_nonfinite_loss", on_nonfinite_loss, OnError)
        self.skip = on_nonfinite_loss == "skip"
        self.recent: list[tuple[int, list[float], Tensor, Tensor]] = []  # step, learning rates, loss, rows
        self.averages: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        self.rows = batch[1]
        if self.skip and not self.averages:
            self.averages = [buffer.clone() for buffer in pl_module.generator.buffers()]  # type: ignore[union-attr]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        rates = list(pl_module.learning_rates().values())  # type: ignore[operator]
        # a CUDA graph overwrites the loss in the next step
        self.recent.append((trainer.global_step, rates, loss.detach().clone(), self.rows))

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self.skip:
            return
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        values = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
        values += [loss for _, _, loss, _ in self.recent]
        finite = bool(torch.stack([value.isfinite().all() for value in values]).all())
        if all_reduce_max(not finite)[0]:
            log.warning("%s: this step is skipped", self._describe(trainer, *self.recent[-1]))
            pl_module.zero_grad(set_to_none=True)
            for buffer, average in zip(pl_module.generator.buffers(), self.averages, strict=True):  # type: ignore[union-attr]
                buffer.copy_(average)
        self.recent.clear()
        self.averages.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        if len(self.recent) >= trainer.log_every_n_steps > 0:  # type: ignore[attr-defined]
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer)
        # aminmax propagates NaN; isfinite() would need as much memory as the table, and seconds
        extremes = [torch.stack(weight.detach().aminmax()) for weight in pl_module.parameters()]
        with raise_on_all_ranks():
            if not torch.stack(extremes).isfinite().all():
                raise FloatingPointError(f"weights or codes are not finite after step {trainer.global_step}")

    def _check(self, trainer: Trainer) -> None:
        if self.recent and not self.skip:
            finite = torch.stack([loss for _, _, loss, _ in self.recent]).isfinite().tolist()
            bad = finite.index(False) if not all(finite) else len(finite)
            earliest = -all_reduce_max(-bad)[0]  # one step later the loss is bad on every rank
            if earliest < len(finite):
                with raise_on_all_ranks():
                    if bad == earliest:
                        raise FloatingPointError(self._describe(trainer, *self.recent[bad]))
            self.recent.clear()

    @staticmethod
    def _describe(trainer: Trainer, step: int, rates: list[float], loss: Tensor, rows: Tensor) -> str:
        """Names the step, its learning rates and its images."""
        kind, names = "rows", [str(row) for row in rows.tolist()]
        source = getattr(getattr(trainer, "datamodule", None), "source", None)
        if source is not None:
            kind, names = "keys", [source.key(row).decode(errors="backslashreplace") for row in rows.tolist()]
        learning_rates = ", ".join(f"{rate:g}" for rate in rates)
        return f"loss {float(loss)} in step {step} (learning rates {learning_rates}; {kind} {' '.join(names)})"
