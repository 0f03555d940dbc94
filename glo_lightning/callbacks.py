"""What happens around the training: the PCA start, pictures, speed, losses that are not finite."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from glo_lightning.errors import InputError, check_choice
from glo_lightning.latents import pca_codes
from glo_lightning.priors import Gaussian, sample_codes

if TYPE_CHECKING:
    from glo_lightning.module import GLO

log = logging.getLogger(__name__)


class PCAStart(Callback):
    """Writes the projected PCA coordinates of its image into every row before a first fit.

    The images come from the datamodule's ``ordered_dataloader``. Codes that have been trained are left alone.

    Raises:
        InputError: when there is no such datamodule.
    """

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        if pl_module.started:
            return
        data = getattr(trainer, "datamodule", None)
        if data is None or not hasattr(data, "ordered_dataloader"):
            raise InputError(
                "init", "pca", "reads the images from an LSUNDataModule; fit with one, or give init random"
            )
        table = pl_module.latents.weight
        if trainer.is_global_zero:
            began = time.monotonic()
            loader = data.ordered_dataloader()
            rows: list[Tensor] = []

            def images() -> Iterator[Tensor]:
                for batch, index in loader:
                    rows.append(index)
                    yield batch

            sizes = (table.shape[1], pl_module.n_pca)
            start = pca_codes(images(), *sizes, whiten=pl_module.whiten, device=table.device)
            for number, codes in enumerate(start):
                table[rows[number]] = pl_module.project(codes.to(table))
            seconds = time.monotonic() - began
            log.info("PCA start: wrote %d codes in %.1f s", sum(map(len, rows)), seconds)
        if trainer.world_size > 1:
            torch.distributed.broadcast(table, src=0)


class ReconstructionGrid(Callback):
    """Shows the first images and, after each epoch, what the generator makes of their codes.

    As PNG in the run folder (``images/targets.png``, ``images/reconstructions_epoch_000.png``) and in TensorBoard
    (``targets``, ``reconstructions``); the generator in eval mode, without gradients.

    Args:
        num_images: images in the grid, eight in a row.
    """

    def __init__(self, num_images: int = 64):
        self.num_images = num_images

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not (Path(trainer.default_root_dir) / "images" / "targets.png").exists():
            data = trainer.datamodule  # type: ignore[attr-defined]
            images, _ = data.dataset[list(range(min(self.num_images, data.num_images)))]
            _show(trainer, "targets", images.float() / 255, "targets.png")

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        if trainer.is_global_zero:
            _show_generated(trainer, pl_module, "reconstructions", pl_module.latents.weight[: self.num_images])


class SampleGrid(Callback):
    """Shows, after each epoch, what the generator makes of codes drawn from a Gaussian that is fitted to the codes.

    As PNG in the run folder (``images/samples_epoch_000.png``) and in TensorBoard (``samples``). The noise is the same
    in every epoch. The Gaussian is that of the first 16,384 codes. There is no picture of codes that are no more than
    dimensions, or that have diverged.

    Args:
        num_images: images in the grid, eight in a row.
    """

    def __init__(self, num_images: int = 64):
        self.num_images = num_images

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        codes = pl_module.latents.weight[:16_384]
        if trainer.is_global_zero and len(codes) > codes.shape[1] and codes.isfinite().all():
            drawn = sample_codes(Gaussian().fit(codes), codes, self.num_images, pl_module.project)
            _show_generated(trainer, pl_module, "samples", drawn)


def _show_generated(trainer: Trainer, model: GLO, tag: str, codes: Tensor) -> None:
    model.eval()
    images = model(codes)
    model.train()
    _show(trainer, tag, (images.float().cpu() + 1) / 2, f"{tag}_epoch_{trainer.current_epoch:03d}.png")


def _show(trainer: Trainer, tag: str, images: Tensor, name: str) -> None:
    """Writes images (B, 3, H, W) in [0, 1]."""
    from torchvision.utils import make_grid, save_image  # a second of import that --help need not wait for

    grid = make_grid(images, nrow=8)
    folder = Path(trainer.default_root_dir) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    save_image(grid, folder / name)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            # the step of the last batch, as Lightning has it for what is logged at an epoch's end
            logger.experiment.add_image(tag, grid, max(trainer.global_step - 1, 0))


class Throughput(Callback):
    """Logs ``train/images_per_second``, over all processes, since it was last logged, without pauses between epochs."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images, self.since = 0, time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images, self.since = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        self.images += len(batch[1]) * trainer.world_size
        if (trainer.global_step % trainer.log_every_n_steps) == 0 or trainer.is_last_batch:  # type: ignore[attr-defined]
            now = time.monotonic()
            pl_module.log("train/images_per_second", self.images / (now - self.since), prog_bar=True)
            self.images, self.since = 0, now


class FiniteLoss(Callback):
    """Stops a run whose loss is not finite, or leaves the steps of such batches out.

    ``raise`` looks every ``log_every_n_steps`` batches, at an epoch's end and before a checkpoint is written; no step
    waits for the device. ``skip`` looks before every step is taken, for which the host waits for the device: then
    neither weights nor codes nor BatchNorm's averages take anything from a batch whose loss or gradients are not
    finite. Its step counts, and it is logged with a warning.

    Args:
        on_nonfinite: ``raise`` or ``skip``.

    Raises:
        FloatingPointError: naming the step, the rates and the keys of the batch.
    """

    def __init__(self, on_nonfinite: str = "raise"):
        check_choice("on_nonfinite", on_nonfinite, ("raise", "skip"))
        self.skip = on_nonfinite == "skip"
        self.recent: list[tuple[int, list[float], Tensor, Tensor]] = []  # step, rates, loss, rows
        self.averages: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        self.rows = batch[1]
        if self.skip and not self.averages:
            self.averages = [buffer.clone() for buffer in pl_module.generator.buffers()]  # type: ignore[union-attr]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        self.recent.append((trainer.global_step, rates, loss.detach(), self.rows))

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
        if not trainer.strategy.reduce_boolean_decision(finite):
            log.warning("%s: left out", self._describe(trainer, *self.recent[-1]))
            optimizer.zero_grad(set_to_none=True)
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
        if not all(bool(weight.isfinite().all()) for weight in pl_module.parameters()):
            raise FloatingPointError(f"weights or codes are not finite after step {trainer.global_step}")

    def _check(self, trainer: Trainer) -> None:
        if self.recent and not self.skip:
            finite = torch.stack([loss for _, _, loss, _ in self.recent]).isfinite().tolist()
            if not all(finite):
                raise FloatingPointError(self._describe(trainer, *self.recent[finite.index(False)]))
            self.recent.clear()

    @staticmethod
    def _describe(trainer: Trainer, step: int, rates: list[float], loss: Tensor, rows: Tensor) -> str:
        kind, names = "rows", [str(row) for row in rows.tolist()]
        records = getattr(getattr(trainer, "datamodule", None), "records", None)
        if records is not None:
            kind, names = "keys", [records.key(row).decode(errors="backslashreplace") for row in rows.tolist()]
        shown = ", ".join(f"{rate:g}" for rate in rates)
        return f"loss {float(loss)} in step {step}, rates {shown}, {kind} {' '.join(names)}"
