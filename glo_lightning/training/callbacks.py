"""Callbacks that log a run: curves, speed and pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from glo_lightning.files import handle_write_errors, write_whole
from glo_lightning.images import from_uint8, to_unit
from glo_lightning.priors.gaussian import Gaussian
from glo_lightning.priors.prior import sample_codes
from glo_lightning.runs.checkpoints import write_policy

if TYPE_CHECKING:
    from glo_lightning.module import GLO


INITIAL_ROWS = 16_384  # initial codes that are kept, also in checkpoints, to measure how far the codes have moved


class Curves(Callback):
    """Logs the loss, the learning rates, and the norms and movement of the codes.

    ``train/loss`` and the learning rates are logged every ``log_every_n_steps`` batches and at an epoch's end. After
    each epoch come ``train/loss_epoch``, the mean over all images with a finite loss; ``latents/norm_mean``; and
    ``latents/moved``, the mean distance of the first 16,384 codes from their initial values. Checkpoints keep the
    initial codes, and the sums of an epoch that is cut off.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None  # (2,): sum of the epoch's losses so far, number of images
        self.initial: Tensor | None = None  # (n, D)

    def on_train_start(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        codes = pl_module.latents.weight.detach()
        self.initial = (codes[:INITIAL_ROWS].clone() if self.initial is None else self.initial).to(codes.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.total = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        images = len(batch[1])
        loss = outputs["loss"] * trainer.accumulate_grad_batches  # Lightning has divided by it
        part = torch.stack([loss.float() * images, loss.new_full((), images, dtype=torch.float)])
        part = torch.where(loss.isfinite(), part, torch.zeros_like(part))
        self.total = part if self.total is None else self.total.to(part.device) + part
        if _is_logged(trainer):  # a call takes half a millisecond
            pl_module.log("train/loss", loss, batch_size=images)
            optimizer = type(trainer.optimizers[0]).__name__
            for name, rate in pl_module.learning_rates().items():  # type: ignore[operator]
                pl_module.log(f"lr-{optimizer}/{name}", rate)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        total, images = self._total_of_all(trainer)
        pl_module.log("train/loss_epoch", total / images)
        codes = pl_module.latents.weight.detach()
        pl_module.log("latents/norm_mean", torch.linalg.vector_norm(codes, dim=1).mean())
        if self.initial is not None and len(self.initial):
            moved = torch.linalg.vector_norm(codes[: len(self.initial)] - self.initial, dim=1)
            pl_module.log("latents/moved", moved.mean())

    def _total_of_all(self, trainer: Trainer) -> Tensor:
        """The totals, summed over all ranks."""
        total = torch.zeros(2) if self.total is None else self.total
        return torch.as_tensor(trainer.strategy.reduce(total.clone(), reduce_op="sum"))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_loss"] = self._total_of_all(trainer).tolist()
        checkpoint["initial_codes"] = self.initial

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.initial = checkpoint["initial_codes"]
        if trainer.is_global_zero:  # it includes the sums of the other ranks
            self.total = torch.tensor(checkpoint["epoch_loss"])


class ReconstructionGrid(Callback):
    """Shows the first images and, after each epoch, their reconstructions.

    Writes PNG files into the run folder (``images/targets.png``, ``images/reconstructions_epoch_000.png``) and pictures
    to TensorBoard (``targets``, ``reconstructions``). The generator is in eval mode.

    Args:
        num_images: images in the grid, eight in a row.
    """

    def __init__(self, num_images: int = 64):
        self.num_images = num_images

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not (Path(trainer.default_root_dir) / "images" / "targets.png").exists():
            data = trainer.datamodule  # type: ignore[attr-defined]
            images, _ = data.dataset[range(min(self.num_images, data.num_images))]
            _show(trainer, "targets", to_unit(from_uint8(images)), "targets.png")

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        if trainer.is_global_zero:
            _show_generated(trainer, pl_module, "reconstructions", pl_module.latents.weight[: self.num_images])


class SampleGrid(Callback):
    """Shows, after each epoch, samples of a Gaussian fitted to the first 16,384 codes.

    Writes PNG files into the run folder (``images/samples_epoch_000.png``) and pictures to TensorBoard (``samples``).
    The noise is the same in every epoch. There is no picture if there are not more codes than dimensions, or if the
    codes are not finite.

    Args:
        num_images: images in the grid, eight in a row.
    """

    def __init__(self, num_images: int = 64):
        self.num_images = num_images

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        codes = pl_module.latents.weight[:16_384]
        if trainer.is_global_zero and len(codes) > codes.shape[1] and codes.isfinite().all():
            sampled = sample_codes(Gaussian().fit(codes), codes, self.num_images, pl_module.project)
            _show_generated(trainer, pl_module, "samples", sampled)


def _show_generated(trainer: Trainer, model: GLO, tag: str, codes: Tensor) -> None:
    model.eval()
    images = model(codes)
    model.train()
    _show(trainer, tag, to_unit(images.cpu()), f"{tag}_epoch_{trainer.current_epoch:03d}.png")


def _show(trainer: Trainer, tag: str, images: Tensor, name: str) -> None:
    """Writes a grid of images (B, C, H, W) in [0, 1] to the run folder and to TensorBoard."""
    from torchvision.utils import make_grid, save_image  # takes a second to import, which --help need not wait for

    grid = make_grid(images, nrow=8)
    folder = Path(trainer.default_root_dir) / "images"
    with handle_write_errors(f"The picture {name}", write_policy(trainer)):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, lambda file: save_image(grid, file, format="png"))
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            # the step of the last batch, which Lightning uses at an epoch's end
            logger.experiment.add_image(tag, grid, max(trainer.global_step - 1, 0))


class Throughput(Callback):
    """Logs ``train/images_per_second`` of all ranks since it was last logged, without the pauses between epochs."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # which Lightning does not call in an epoch that is continued

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images, self.since = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        self.images += len(batch[1]) * trainer.world_size
        if _is_logged(trainer):
            now = time.monotonic()
            pl_module.log("train/images_per_second", self.images / (now - self.since))
            self.images, self.since = 0, now


class Bar(TQDMProgressBar):
    """Lightning's progress bar, with the last logged loss and speed.

    Lightning reads the bar's values after every batch and waits for the GPU. This bar reads a value only when it is
    also written to TensorBoard.
    """

    METRICS = ("train/loss", "train/images_per_second")

    def __init__(self) -> None:
        super().__init__()
        self.latest: dict[str, float] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        if _is_logged(trainer):
            logged = trainer.callback_metrics
            self.latest |= {name: float(logged[name]) for name in self.METRICS if name in logged}
        return {**super().get_metrics(trainer, pl_module), **self.latest}


def _is_logged(trainer: Trainer) -> bool:
    """Whether values that are logged in the last batch are written."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return trainer.is_last_batch or bool(every and trainer.global_step % every == 0)
