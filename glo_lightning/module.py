"""Generative Latent Optimization (Bojanowski et al., ICML 2018) as a LightningModule."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from glo_lightning.checkpoint_format import FORMAT_VERSION, check_format, check_same_shape
from glo_lightning.class_path import plain
from glo_lightning.distributed import broadcast_from_first, rank_weight, rows_by_rank
from glo_lightning.encoding import STARTS, encode, starting_codes
from glo_lightning.errors import InputError, check_at_least, check_choice
from glo_lightning.generator import make_generator
from glo_lightning.images import psnr
from glo_lightning.latents import (
    PROJECTIONS,
    Constraint,
    Init,
    check_pca,
    images_to_fit,
    init_from_pca,
    per_image,
    random_codes,
)
from glo_lightning.lightning_internals import OWN_CLASS, exclude_from_ddp
from glo_lightning.losses import make_loss
from glo_lightning.optimizers import GENERATOR_RATES, GeneratorOptimizer, Schedule, find_optimizer, rate_factor

log = logging.getLogger(__name__)

STATE = ("initialised", "total_steps", "holdout_codes")  # what a checkpoint has besides weights and codes


class GLO(LightningModule):
    """A generator and one latent vector per image, learned together by gradient descent on a reconstruction loss.

    The algorithm, for a batch of images x_i and the rows z_i of the latent table:

    1. generate: generator(z_i), in [-1, 1] as the images are;
    2. compare: loss(generator(z_i), x_i), the L1 distance of Laplacian pyramids;
    3. step: SGD, or AdamW, on the generator's weights, SGD on the rows of this batch alone;
    4. project these rows back into the unit ball.

    Args:
        num_images: N, the number of rows; on the command line it is read from the data.
        latent_dim: D.
        image_size: H and W; what sizes there are is the generator's to say.
        width: channels of the generator's last hidden layer.
        generator: ``dcgan``, ``skip_z`` or the path of a class, see ``make_generator``.
        generator_args: further arguments of that class.
        init: where the codes begin: the images' ``pca`` coordinates or ``random`` normal vectors, both projected.
        n_pca: images that the PCA is fitted on, at most.
        whiten: scales the PCA coordinates to equal variances, so that most codes lie inside the ball. As they come
            nearly all lie far outside, and the projection keeps their direction alone: the first few coordinates'.
        constraint: unit ``ball``, unit ``sphere`` or ``none``.
        loss: ``lap_l1``, ``l2`` or the path of a class, see ``make_loss``.
        loss_args: the arguments of that class.
        levels: of the Laplacian pyramid, besides the residual (3 if not given).
        level_weights: one for each level, finest first, and one for the residual; equal if not given.
        l2_weight: of the mean squared error, which is added to ``lap_l1`` (0 if not given).
        generator_optimizer: ``sgd`` or ``adamw``.
        generator_lr: learning rate of the generator, for the loss's mean over a batch (1 for sgd, 0.003 for adamw, if
            not given).
        weight_decay: of the generator's weights: this times a weight is added to its gradient, or, by adamw, this times
            the rate is taken off the weight.
        latent_lr: learning rate of the codes, per image: a row moves by this times the gradient of its own image's
            loss, whatever the batch size. minimal_glo's 10 for a mean over 128 images is 10/128. 0 freezes them.
        latent_optimizer: ``sgd``; ``whitened``, see ``WhitenedRows``: then ``latent_lr`` is how far a row moves; or the
            path of a subclass of ``RowSGD``.
        schedule: of both rates: ``constant``, or ``cosine`` to zero over the run.
        compile: compiles generator and loss for the training: a minute at the start, then faster steps.
        channels: C, 3 for RGB or 1 for grey; on the command line it is read from the data.

    Raises:
        InputError: for a value out of range.
    """

    def __init__(
        self,
        num_images: int,
        latent_dim: int = 128,
        image_size: int = 64,
        width: int = 64,
        generator: str = "dcgan",
        generator_args: dict[str, Any] | None = None,
        init: Init = "pca",
        n_pca: int = 24_576,
        whiten: bool = False,
        constraint: Constraint = "ball",
        loss: str = "lap_l1",
        levels: int | None = None,
        level_weights: Sequence[float] | None = None,
        l2_weight: float | None = None,
        loss_args: dict[str, Any] | None = None,
        generator_optimizer: GeneratorOptimizer = "sgd",
        generator_lr: float | None = None,
        weight_decay: float = 0.0,
        latent_lr: float = 10 / 128,
        latent_optimizer: str = "sgd",
        schedule: Schedule = "constant",
        compile: bool = False,
        channels: int = 3,
    ):
        super().__init__()
        check_at_least("num_images", num_images, 1)
        check_choice("init", init, Init)
        check_choice("constraint", constraint, Constraint)
        check_choice("schedule", schedule, Schedule)
        self.optimizer_class = find_optimizer(latent_optimizer, generator_optimizer)
        if generator_lr is None:
            generator_lr = GENERATOR_RATES[generator_optimizer]
        for key, value in (("generator_lr", generator_lr), ("weight_decay", weight_decay), ("latent_lr", latent_lr)):
            check_at_least(key, value, 0)
        generator_lr, weight_decay, latent_lr = float(generator_lr), float(weight_decay), float(latent_lr)
        made = make_generator(generator, latent_dim, image_size, width, generator_args, channels)
        self.generator = made.to(memory_format=torch.channels_last)  # the faster layout, on CPU and GPU
        self.loss = make_loss(loss, image_size, levels, level_weights, l2_weight, loss_args)
        fitted = images_to_fit(n_pca, channels * image_size**2)
        if init == "pca":
            check_pca(latent_dim, num_images, fitted, image_size, channels)
            if fitted < min(n_pca, num_images):
                message = "the PCA is fitted on %d images, not n_pca %d: more of %d pixels would not fit into memory"
                log.info(message, fitted, n_pca, image_size)
        self.save_hyperparameters(logger=False)
        self.hparams.update(plain(dict(self.hparams)))  # a checkpoint is loaded without unpickling anything else
        self.init, self.n_pca, self.whiten, self.schedule = init, fitted, whiten, schedule
        self.generator_lr, self.weight_decay, self.latent_lr = generator_lr, weight_decay, latent_lr
        self.project = PROJECTIONS[constraint]
        codes = self.project(random_codes(num_images, latent_dim))
        self.latents = nn.Embedding(num_images, latent_dim, sparse=True, _weight=codes)
        self.latents.requires_grad_(latent_lr > 0)
        self.initialised = False  # whether the codes have been, in this run or in the one whose checkpoint was loaded
        self.holdout_codes: Tensor | None = None  # (M, D), of the held-out images
        self.total_steps: float = math.nan
        self.ddp_loss_weight = 1.0  # of this process's part of a batch in the mean over all processes
        exclude_from_ddp(self, ["latents.weight"])  # its rows are gathered by the optimizer

    def forward(self, codes: Tensor) -> Tensor:
        """Generates images (B, C, H, W) in [-1, 1] from codes (B, D)."""
        return self.generator(codes)

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        """The loss of codes (B, D) for images (B, C, H, W) in [-1, 1], a mean over the batch."""
        return self.loss(self.generator(codes), images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, index = batch  # (B, C, H, W) in [-1, 1], (B,)
        self.ddp_loss_weight = rank_weight(rows_by_rank(self.trainer.train_dataloader, [batch_idx]))
        codes = per_image(self.latents(index), self.trainer.accumulate_grad_batches / self.ddp_loss_weight)  # (B, D)
        return self.objective(codes, images)  # 1. generate, 2. compare

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss if self.ddp_loss_weight == 1 else self.ddp_loss_weight * loss, *args, **kwargs)

    def optimizer_step(self, epoch: int, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self.set_rates(self.global_step)
        first = batch_idx - batch_idx % self.trainer.accumulate_grad_batches
        counts = rows_by_rank(self.trainer.train_dataloader, range(first, batch_idx + 1))
        self.optimizers(use_pl_optimizer=False).rows_by_rank = counts  # type: ignore[union-attr]
        super().optimizer_step(epoch, batch_idx, *args, **kwargs)  # training_step, its gradients, and 3. step
        table = self.latents.weight
        if table.grad is not None:
            rows = table.grad._indices()[0]
            with torch.no_grad():
                table[rows] = self.project(table[rows])  # 4. project

    def set_rates(self, step: int) -> None:
        """Gives both groups of the optimizer what they have in that step, whatever a checkpoint says."""
        factor = rate_factor(self.schedule, step, self.total_steps)
        generator, latents = self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]
        generator["lr"], generator["weight_decay"] = self.generator_lr * factor, self.weight_decay
        latents["lr"] = self.latent_lr * factor

    def configure_optimizers(self) -> torch.optim.Optimizer:
        generator = {"params": list(self.generator.parameters()), "lr": self.generator_lr, "name": "generator"}
        latents = {"params": [self.latents.weight], "lr": self.latent_lr, "name": "latents"}
        return self.optimizer_class([generator, latents])  # one for both: one step counts as one

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the generator's gradients; the steps of the codes are bounded by their constraint, and sparse."""
        if gradient_clip_val is not None:
            clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
            clip(self.generator.parameters(), gradient_clip_val)

    def encode(
        self,
        images: Tensor,
        training: Tensor | None = None,
        starts: Sequence[str] | Tensor = STARTS,
        loss: nn.Module | None = None,
        **options: Any,
    ) -> Tensor:
        """Codes (M, D) for images (M, C, H, W) in [-1, 1] that own no row: ``encoding.encode`` with this model's parts.

        ``starts`` are codes (M, S, D), or names, see ``starting_codes``, which need the training images (uint8).
        """
        if not isinstance(starts, Tensor):
            if training is None:
                raise InputError("training", None, "starts by name need the training images; give them, or codes")
            starts = starting_codes(self.latents.weight, training, images, starts, self.n_pca, self.whiten)
        return encode(self.generator, images, starts, loss or self.loss, self.project, **options)

    def validation_step(self, batch: tuple[Tensor, Any], batch_idx: int) -> None:
        """Logs the PSNR in dB of held-out images, encoded by a few steps from the epoch before's codes, or the mean."""
        images, _ = batch
        starts = self.latents.weight.mean(dim=0).expand(len(images), -1)
        if self.holdout_codes is not None and self.holdout_codes.shape == starts.shape:
            starts = self.holdout_codes.to(starts)
        codes = self.encode(images, starts=starts[:, None], steps=30)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.holdout_codes = codes.detach().clone()
        self.log("val/psnr", psnr(self(codes), images), prog_bar=True, batch_size=len(images), sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Reconstructs images (B, C, H, W) in [-1, 1] from their codes."""
        _, index = batch
        return self(self.latents(index))

    def on_fit_start(self) -> None:
        """Initialises codes that are not yet, the same in all processes, and compiles the objective."""
        if self.init == "pca" and not self.initialised:
            loader = getattr(getattr(self.trainer, "datamodule", None), "ordered_dataloader", None)
            if loader is None:
                remedy = "reads the images from an LSUNDataModule; fit with one, or give init random"
                raise InputError("init", "pca", remedy)
            init_from_pca(self.latents.weight.data, loader, self.project, self.n_pca, self.whiten)
        broadcast_from_first(self.latents.weight.data)  # random ones too: each process may have had a seed of its own
        if self.hparams["compile"]:  # the function, not the modules: keys of checkpoints and pictures stay as they are
            # CUDA graphs; gradients that are added up over batches would lie in the graph's own memory
            graphs = self.device.type == "cuda" and self.trainer.accumulate_grad_batches == 1
            mode = "reduce-overhead" if graphs else None
            self.objective = torch.compile(self.objective, dynamic=False, mode=mode)  # type: ignore[method-assign]

    def on_train_start(self) -> None:
        self.initialised = True
        saved, self.total_steps = self.total_steps, self.trainer.estimated_stepping_batches
        if self.schedule == "cosine":
            if math.isinf(self.total_steps):
                raise InputError("schedule", self.schedule, "an endless run has no schedule; give max_epochs")
            if not math.isnan(saved) and saved != self.total_steps:
                message = "the schedule follows the new length of %d batches (was %d) from batch %d on"
                log.info(message, self.total_steps, saved, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"format_version": FORMAT_VERSION} | {key: getattr(self, key) for key in STATE}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another format, or of a model of another shape."""
        check_format(checkpoint)
        check_same_shape(checkpoint["hyper_parameters"], self.hparams)
        for key in STATE:
            setattr(self, key, checkpoint[key])

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **kwargs: Any) -> GLO:  # type: ignore[override]
        """As Lightning's; no argument is needed.

        Raises:
            InputError: for a checkpoint of another format.
        """
        check_format(torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True))
        arguments = {"weights_only": True, **kwargs, **OWN_CLASS}
        return super().load_from_checkpoint(checkpoint_path, **arguments)
