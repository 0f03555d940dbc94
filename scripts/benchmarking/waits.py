"""What waits for a device: operations that read a tensor's value, or have to know how many there are, on the host."""

from __future__ import annotations

import collections
import contextlib
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "coalesce", "unique")


class Count(TorchDispatchMode):
    """Names of the operations that would wait for a device; counted on the CPU, of what is not compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        name = function.name().split("::")[1].split(".")[0]
        indices = arguments[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        if by_mask or any(name.startswith(word) or name.startswith("_" + word) for word in WAITING):
            self.names.append(name)
        return function(*arguments, **(kwargs or {}))


class CountOnCUDA(contextlib.ExitStack):
    """Where the host waited for a CUDA device, as ``file.py:line``, by what PyTorch's debug mode warns of."""

    def __enter__(self) -> CountOnCUDA:
        super().__enter__()
        self.caught = self.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        self.callback(torch.cuda.set_sync_debug_mode, torch.cuda.get_sync_debug_mode())
        torch.cuda.set_sync_debug_mode("warn")
        return self

    @property
    def names(self) -> list[str]:
        waited = [one for one in self.caught if "synchronizing CUDA operation" in str(one.message)]
        return [f"{Path(one.filename).name}:{one.lineno}" for one in waited]


class Waits(Callback):
    """What waited in each step, from the start of its batch to that of the next one.

    An epoch's last step is not looked at: the pictures and checkpoints after it do wait.

    Args:
        warm: steps, at a run's start, that are not looked at.

    Attributes:
        steps: of each step looked at its number, ``global_step`` at its end, and the names of what waited.
    """

    def __init__(self, warm: int = 0):
        self.warm = warm

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps: list[tuple[int, list[str]]] = []
        self.count: Count | CountOnCUDA | None = None
        self.make = CountOnCUDA if pl_module.device.type == "cuda" else Count

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._stop(trainer.global_step)
        if trainer.global_step >= self.warm:
            self.count = self.make()
            self.count.__enter__()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop(None)

    def _stop(self, step: int | None) -> None:
        """Ends the counting of a step, whose names are kept under its number."""
        if self.count is not None:
            self.count.__exit__(None, None, None)
            if step is not None:
                self.steps.append((step, self.count.names))
            self.count = None

    def summary(self, log_every: int) -> dict[str, Any]:
        """Waits a step, over all steps and over those that log nothing, and how often each of them came."""
        counts = [len(names) for _, names in self.steps]
        quiet = [len(names) for step, names in self.steps if step % log_every]
        return {
            "steps": len(counts),
            "waits_a_step": sum(counts) / max(len(counts), 1),
            "waits_a_step_between_logs": sum(quiet) / max(len(quiet), 1),
            "what": dict(collections.Counter(name for _, names in self.steps for name in names)),
        }
