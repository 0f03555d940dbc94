"""What a run says while it trains: a bar or lines, and the figures of its last epoch in metrics.json."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress import ProgressBar

from glo_lightning.errors import DamagedError, decoding
from glo_lightning.files import handle_write_errors, write_text
from glo_lightning.progress import SECONDS_BETWEEN_LINES
from glo_lightning.runs.checkpoints import write_policy

if TYPE_CHECKING:
    from glo_lightning.module import GLO

log = logging.getLogger(__name__)

EPOCH_METRICS = ("train/loss_epoch", "val/psnr", "train/images_per_second")
WORDS = {"train/loss": "loss {:.4g}", "train/loss_epoch": "loss {:.4g}", "val/psnr": "val/psnr {:.2f} dB"}
WORDS["train/images_per_second"] = "{:.0f} images/s"


def is_logged(trainer: Trainer) -> bool:
    """Whether values that are logged in the last batch are written."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return trainer.is_last_batch or bool(every and trainer.global_step % every == 0)


def is_validated(trainer: Trainer) -> bool:
    """Whether this epoch is one of those that are validated and pictured."""
    every = trainer.check_val_every_n_epoch
    return every is None or (trainer.current_epoch + 1) % every == 0


def logged_values(trainer: Trainer, names: tuple[str, ...]) -> dict[str, float]:
    """Those of the named metrics that were logged, as floats, without a ``val/psnr`` of an earlier epoch."""
    logged = trainer.callback_metrics
    current = [name for name in names if name != "val/psnr" or is_validated(trainer)]
    return {name: float(logged[name]) for name in current if name in logged}


class Bar(TQDMProgressBar):
    """Lightning's progress bar, with the last logged loss and speed.

    Lightning reads the bar's values after every batch and waits for the GPU. This bar reads a value only when it is
    also written to the loggers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latest: dict[str, float] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        if is_logged(trainer):
            self.latest |= logged_values(trainer, ("train/loss", "train/images_per_second"))
        return {**super().get_metrics(trainer, pl_module), **self.latest}


class Lines(ProgressBar):
    """Progress for output that is no terminal: one line an epoch, and one a minute within an epoch.

    Args:
        prior: what is fitted after the last epoch; that is not in the time that is left.
    """

    def __init__(self, prior: str | None = None):
        super().__init__()
        self.then = "" if prior is None else f", then the prior {prior.rpartition('.')[2]}"

    def disable(self) -> None:
        """Does nothing: Lightning disables the bars of other ranks than 0, and those write no lines."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = self.last_line = time.monotonic()
        self.batches = 0  # since this start, which may have been in the middle of an epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            what = f"batch {batch_idx + 1}/{trainer.num_training_batches}"
            self._line(trainer, ("train/loss", "train/images_per_second"), what)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        left = (trainer.max_epochs or 0) - trainer.current_epoch - 1
        seconds = (time.monotonic() - self.began) / self.batches * left * trainer.num_training_batches
        self._line(trainer, EPOCH_METRICS, f"{duration(seconds)} left{self.then}" if left > 0 else "")

    def _line(self, trainer: Trainer, names: tuple[str, ...], what: str) -> None:
        self.last_line = time.monotonic()
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        parts = [WORDS[name].format(value) for name, value in logged_values(trainer, names).items()]
        if trainer.is_global_zero:
            log.info("epoch %d%s: %s", trainer.current_epoch + 1, of, ", ".join(filter(None, [*parts, what])))


def duration(seconds: float) -> str:
    """Seconds as a reader would say them: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class WriteMetrics(Callback):
    """Writes ``metrics.json`` after each epoch: its figures and the best score so far, for programs and sweeps.

    ``seconds`` counts training in all starts of the run, to the end of an epoch; ``peak_memory_bytes`` is that of this
    process or, on a GPU, of its memory.
    """

    def __init__(self, folder: Path):
        self.file = folder / "metrics.json"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.monotonic()
        if self.file.exists():
            with contextlib.suppress(DamagedError), decoding("resume", self.file, "It is written again."):
                self.began -= json.loads(self.file.read_text())["seconds"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        metrics = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            **logged_values(trainer, EPOCH_METRICS),
            "seconds": round(time.monotonic() - self.began, 1),
            "peak_memory_bytes": _peak_memory(pl_module.device),
            "num_images": pl_module.latents.num_embeddings,
            "version": version("glo_lightning"),
        }
        with handle_write_errors(self.file.name, write_policy(trainer)):
            write_text(self.file, json.dumps(metrics, indent=1))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB here
