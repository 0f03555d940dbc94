"""Callbacks that log a run: curves, speed and pictures."""

from __future__ import annotations

import itertools
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor

from glo_lightning.data.sampler import rows_without
from glo_lightning.errors import InputError
from glo_lightning.files import handle_write_errors
from glo_lightning.images import from_uint8
from glo_lightning.loaders import BATCH, sequential_batches
from glo_lightning.priors.gaussian import Gaussian
from glo_lightning.priors.prior import sample_codes
from glo_lightning.runs.checkpoints import write_policy
from glo_lightning.training.loggers import SetUpLoggers, log_picture, make_picture, write_picture
from glo_lightning.training.reports import is_logged, is_validated

if TYPE_CHECKING:
    from glo_lightning.module import GLO


log = logging.getLogger(__name__)

INITIAL_ROWS = 16_384  # initial codes that are kept, also in checkpoints, to measure how far the codes have moved


def default_callbacks(folder: Path | None = None) -> list[Callback]:
    """The callbacks that log a run's curves, pictures and hyperparameters, in any Trainer.

    Args:
        folder: the run folder. Without it pictures lie beside the logger's files.
    """
    return [Curves(), Throughput(), SetUpLoggers(folder), ReconstructionGrid(folder=folder), SampleGrid(folder=folder)]


def missing_callbacks(trainer: Trainer) -> list[Callback]:
    """Those of the default callbacks whose kind a Trainer lacks; none for a ``barebones`` one."""
    present = {type(callback) for callback in trainer.callbacks}  # type: ignore[attr-defined]
    return [] if trainer.barebones else [callback for callback in default_callbacks() if type(callback) not in present]


def refuse_callbacks(trainer: Trainer, model: GLO) -> None:
    """Raises InputError for callbacks of Lightning's that would fail, set learning rates wrongly, or log them twice."""
    refused: dict[type, str] = {
        LearningRateFinder: "knows one learning rate, and GLO has two. Compare short runs of several instead",
        LearningRateMonitor: "logs learning rates, which are logged already. Leave it out",
        ModelPruning: "cannot prune weights whose channels come last. Leave it out",
    }
    if model.schedule == "cosine":
        remedy = "changes the number of steps, which a cosine has to know. Give accumulate_grad_batches"
        refused[GradientAccumulationScheduler] = remedy
    if model.hparams["constraint"] == "sphere":
        averages = "averages codes, which would leave the sphere. Give --model.constraint ball"
        refused |= {WeightAveraging: averages, StochasticWeightAveraging: averages}
    if not hasattr(model, "backbone"):
        refused[BackboneFinetuning] = "needs a backbone, and the model has none. Leave it out"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, remedy in refused.items():
            if isinstance(callback, kind):
                raise InputError("callbacks", type(callback).__name__, remedy)


class Curves(Callback):
    """Logs the loss, the learning rates, and the norms and movement of the codes.

    ``train/loss`` and the learning rates are logged every ``log_every_n_steps`` steps, or once an epoch that has fewer.
    After each epoch come ``train/loss_epoch``, the mean over all images with a finite loss; ``latents/norm_mean``; and
    ``latents/moved``, the mean distance of the first 16,384 codes from their initial values. Checkpoints keep the
    initial codes, and the sums of an epoch that is cut off.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None  # (2,): sum of the epoch's losses so far, number of images
        self.initial: Tensor | None = None  # (n, D)

    def on_train_start(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches  # of an epoch, infinite for a stream
        steps = min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps
        trainer.log_every_n_steps = math.ceil(min(trainer.log_every_n_steps, steps))  # type: ignore[attr-defined]
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
        if is_logged(trainer):  # a call takes half a millisecond
            pl_module.log("train/loss", loss, batch_size=images)
            optimizer = type(trainer.optimizers[0]).__name__
            for name, rate in pl_module.learning_rates().items():  # type: ignore[operator]
                pl_module.log(f"lr-{optimizer}/{name}", rate)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        total, images = self._total_of_all(trainer)
        pl_module.log("train/loss_epoch", total / images)
        codes = pl_module.latents.weight.detach()
        pl_module.log("latents/norm_mean", torch.linalg.vector_norm(_trained(trainer, codes), dim=1).mean())
        if self.initial is not None and len(self.initial):
            moved = torch.linalg.vector_norm(codes[: len(self.initial)] - self.initial, dim=1)
            pl_module.log("latents/moved", _trained(trainer, moved).mean())

    def _total_of_all(self, trainer: Trainer) -> Tensor:
        """The totals, summed over all ranks."""
        total = torch.zeros(2) if self.total is None else self.total
        return torch.as_tensor(trainer.strategy.reduce(total.clone(), reduce_op="sum"))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_loss"] = self._total_of_all(trainer).tolist()
        checkpoint["initial_codes"] = self.initial

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.initial = checkpoint.get("initial_codes")  # none of a Trainer without this callback
        if trainer.is_global_zero and "epoch_loss" in checkpoint:  # it includes the sums of the other ranks
            self.total = torch.tensor(checkpoint["epoch_loss"])


class _Grid(Callback):
    """Writes grids of images to the run folder and to the loggers, every ``check_val_every_n_epoch`` epochs."""

    def __init__(self, num_images: int = 64, folder: Path | None = None):
        """Takes what the grids of both kinds need.

        Args:
            num_images: images in the grid, eight in a row.
            folder: the run folder. Without it files lie beside the logger's; with neither there are none.
        """
        self.num_images, self.folder = num_images, folder

    def picture_folder(self, trainer: Trainer) -> Path | None:
        folder = self.folder
        if folder is None and trainer.loggers and trainer.log_dir:
            folder = Path(trainer.log_dir)
        return None if folder is None else folder / "images"

    def is_due(self, trainer: Trainer) -> bool:
        """Whether this process draws in this epoch: one that is validated, or the last."""
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        return trainer.is_global_zero and (is_last or is_validated(trainer))

    def show(self, trainer: Trainer, tag: str, name: str, images: Tensor, targets: Tensor | None = None) -> None:
        """Writes a grid of images (B, C, H, W) in [-1, 1] to the folder and to the loggers.

        The loggers show each row of the targets (B, C, H, W), if there are any, above the row of their images.
        """
        grid = make_picture(images)
        folder = self.picture_folder(trainer)
        if folder is not None:
            with handle_write_errors(f"The picture {name}", write_policy(trainer)):
                write_picture(folder / f"{name}.png", grid)
        if targets is not None:
            grid = _make_pairs(targets, images.cpu())
        for logger in trainer.loggers:
            # the step of the last batch, which Lightning uses at an epoch's end
            log_picture(logger, tag, grid, max(trainer.global_step - 1, 0))

    def show_generated(
        self, trainer: Trainer, model: GLO, tag: str, codes: Tensor, targets: Tensor | None = None
    ) -> None:
        model.eval()
        images = model(codes)
        model.train()
        self.show(trainer, tag, f"{tag}_epoch_{trainer.current_epoch:03d}", images, targets)


def _make_pairs(targets: Tensor, images: Tensor) -> Tensor:
    """A grid (3, H, W) of rows of at most eight targets, each above the row of their images; full rows alone."""
    columns = min(8, len(images))
    both = [some[: len(some) // columns * columns].unflatten(0, (-1, columns)) for some in (targets, images)]
    return make_picture(torch.stack(both, dim=1).flatten(0, 2), columns)


class ReconstructionGrid(_Grid):
    """Shows the first images and, after each epoch, their reconstructions.

    Writes PNG files into the run folder (``images/targets.png``, ``images/reconstructions_epoch_000.png``) and pictures
    to the loggers (``targets``, and ``reconstructions`` below their targets). The generator is in eval mode.
    """

    targets: Tensor | None = None  # uint8 (B, C, H, W)

    def on_train_start(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        if not trainer.is_global_zero:
            return
        self.targets = _first_images(trainer, min(self.num_images, pl_module.latents.num_embeddings))
        folder = self.picture_folder(trainer)
        if self.targets is not None and not (folder is not None and (folder / "targets.png").exists()):
            self.show(trainer, "targets", "targets", from_uint8(self.targets))

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        if self.is_due(trainer):
            codes = _trained(trainer, pl_module.latents.weight[: self.num_images])
            targets = None if self.targets is None else from_uint8(self.targets)
            self.show_generated(trainer, pl_module, "reconstructions", codes, targets)


class SampleGrid(_Grid):
    """Shows, after each epoch, samples of a Gaussian fitted to the first 16,384 codes.

    Writes PNG files into the run folder (``images/samples_epoch_000.png``) and pictures to the loggers (``samples``).
    The noise is the same in every epoch. There is no picture if the codes are not finite.
    """

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        codes = _trained(trainer, pl_module.latents.weight[:16_384])
        if self.is_due(trainer) and codes.isfinite().all():
            sampled = sample_codes(Gaussian().fit(codes), codes, self.num_images, pl_module.project)
            self.show_generated(trainer, pl_module, "samples", sampled)


def _trained(trainer: Trainer, values: Tensor) -> Tensor:
    """The values (n, ...) of the first rows, without rows whose images could not be read."""
    skipped = getattr(getattr(trainer, "datamodule", None), "skipped", ())
    skipped = [row for row in skipped if row < len(values)]
    return values[torch.from_numpy(rows_without(skipped, len(values)))] if skipped else values


def _first_images(trainer: Trainer, number: int) -> Tensor | None:
    """The first uint8 images (number, C, H, W) of the training set; None if it cannot be read in order."""
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "sequential_dataloader"):
        return data.dataset[range(number)][0]
    try:
        batches = sequential_batches(trainer)()
        return torch.cat([images for images, _ in itertools.islice(batches, -(-number // BATCH))])[:number]
    except InputError as error:
        log.info("no picture of the targets: %s", error.remedy)
        return None


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
        if is_logged(trainer):
            now = time.monotonic()
            pl_module.log("train/images_per_second", self.images / (now - self.since))
            self.images, self.since = 0, now
