"""Generative Latent Optimization (Bojanowski et al., ICML 2018) as a LightningModule."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from glo_lightning.callbacks import PCAStart
from glo_lightning.encoding import encode
from glo_lightning.errors import InputError, check_at_least, check_choice
from glo_lightning.generator import Generator
from glo_lightning.latents import PROJECTIONS, random_codes
from glo_lightning.losses import make_loss
from glo_lightning.optimizers import OPTIMIZERS

log = logging.getLogger(__name__)

FORMAT_VERSION = 1  # of the checkpoints; 0 is one that does not say


class GLO(LightningModule):
    """A generator and one latent vector per image, learned together by gradient descent on a reconstruction loss.

    The algorithm, for a batch of images x_i and the rows z_i of the latent table:

    1. generate: fakes = generator(z_i), in [-1, 1] as the images are;
    2. compare: loss(fakes, x_i), the L1 distance of Laplacian pyramids;
    3. step: SGD on the generator's weights, and on the rows of this batch alone;
    4. project these rows back into the unit ball.

    Args:
        num_images: N, the number of rows; on the command line it is read from the data.
        latent_dim: D.
        image_size: H and W; 32, 64 or 128.
        width: channels of the generator's last hidden layer.
        init: where the codes start: the images' ``pca`` coordinates or ``random`` normal vectors, both projected.
        n_pca: images that the PCA is fitted on, at most.
        whiten: scales the PCA coordinates to equal variances, small enough for most codes to lie inside the ball. As
            they come, nearly all lie far outside: then the projection keeps their direction alone, and that is the
            first few coordinates'.
        constraint: unit ``ball``, unit ``sphere`` or ``none``.
        loss: ``lap_l1``, ``l2`` or the path of a class, see ``make_loss``.
        levels: of the Laplacian pyramid, besides the residual.
        level_weights: one for each level, finest first, and one for the residual; equal if not given.
        l2_weight: of the mean squared error, which is added to ``lap_l1``.
        generator_lr: learning rate of the generator, for the loss's mean over a batch.
        weight_decay: of the generator's weights, as SGD has it: this times a weight is added to its gradient.
        latent_lr: learning rate of the codes, per image: a row moves by this times the gradient of its own image's
            loss, whatever the batch size. The seed's rate 10 for a mean over 128 images is 10/128. 0 freezes them.
        latent_optimizer: ``sgd``; ``adam`` for each row by itself, see ``RowAdam``: then ``latent_lr`` is about how far
            each coordinate moves in a step; or ``whitened``, see ``WhitenedRows``: then it is how far a row moves.
        latent_from: fraction of the run after which the codes learn; until then they stay where they started.
        schedule: of both rates: ``constant``, or ``cosine`` to zero over the run (the codes', from where they learn).
        start_rows: rows whose start is kept, also in the checkpoints, to tell how far the codes have moved; 0 keeps
            none, and then ``latents/moved`` is not logged.
        compile: compiles generator and loss with torch.compile for the training: a minute at the start, and faster
            steps. The checkpoints are the same.

    Raises:
        InputError: for a value out of range.
    """

    def __init__(
        self,
        num_images: int,
        latent_dim: int = 128,
        image_size: int = 64,
        width: int = 64,
        init: str = "pca",
        n_pca: int = 24_576,
        whiten: bool = False,
        constraint: str = "ball",
        loss: str = "lap_l1",
        levels: int = 3,
        level_weights: Sequence[float] | None = None,
        l2_weight: float = 0.0,
        generator_lr: float = 1.0,
        weight_decay: float = 0.0,
        latent_lr: float = 10 / 128,
        latent_optimizer: str = "sgd",
        latent_from: float = 0.0,
        schedule: str = "constant",
        start_rows: int = 16_384,
        compile: bool = False,
    ):
        super().__init__()
        check_at_least("num_images", num_images, 1)
        check_choice("init", init, ("pca", "random"))
        check_choice("constraint", constraint, tuple(PROJECTIONS))
        check_choice("schedule", schedule, ("constant", "cosine"))
        check_at_least("generator_lr", generator_lr, 0)
        check_at_least("weight_decay", weight_decay, 0)
        check_at_least("latent_lr", latent_lr, 0)
        check_at_least("start_rows", start_rows, 0)
        check_choice("latent_optimizer", latent_optimizer, tuple(OPTIMIZERS))
        if not 0 <= latent_from < 1:
            raise InputError("latent_from", latent_from, "must be a fraction of the run: 0 or more and less than 1")
        generator = Generator(latent_dim, image_size, width)
        self.generator = generator.to(memory_format=torch.channels_last)  # the faster layout, on CPU and GPU
        self.loss = make_loss(loss, image_size, levels, level_weights, l2_weight)
        if init == "pca":
            check_at_least("n_pca", n_pca, 1)
            most = min(num_images, n_pca, 3 * image_size**2)
            if latent_dim > most:
                remedy = f"a PCA start from {most} images has at most {most} dimensions; give fewer or init random"
                raise InputError("latent_dim", latent_dim, remedy)
        # Plain values alone go into the checkpoint: it is loaded without unpickling anything else.
        num_images, latent_dim, image_size, width = int(num_images), int(latent_dim), int(image_size), int(width)
        start_rows = int(start_rows)
        n_pca, levels, generator_lr, latent_lr = int(n_pca), int(levels), float(generator_lr), float(latent_lr)
        latent_from, l2_weight, weight_decay = float(latent_from), float(l2_weight), float(weight_decay)
        level_weights = None if level_weights is None else [float(weight) for weight in level_weights]
        self.save_hyperparameters(logger=False)

        self.init, self.n_pca, self.whiten, self.schedule = init, n_pca, whiten, schedule
        self.generator_lr, self.weight_decay, self.latent_lr = generator_lr, weight_decay, latent_lr
        self.latent_optimizer, self.latent_from = latent_optimizer, latent_from
        self.project = PROJECTIONS[constraint]
        codes = self.project(random_codes(num_images, latent_dim))
        self.latents = nn.Embedding(num_images, latent_dim, sparse=True, _weight=codes)
        self.latents.requires_grad_(latent_lr > 0)
        self.start: Tensor
        self.register_buffer("start", torch.full((min(num_images, start_rows), latent_dim), math.nan))
        self.started = False  # whether the codes have been, in this run or in the one whose checkpoint was loaded
        self.epoch_loss: Tensor
        self.register_buffer("epoch_loss", torch.zeros(2), persistent=False)  # a sum over images, and their number
        self.held_out: Tensor | None = None  # codes (M, D) of the held-out images
        self.total_steps: float = math.nan
        # The rows' gradients are sparse and each process has its own rows: see on_before_optimizer_step.
        self._ddp_params_and_buffers_to_ignore = ["latents.weight", "start", "epoch_loss"]

    def forward(self, codes: Tensor) -> Tensor:
        """Generates images (B, 3, H, W) in [-1, 1] from codes (B, D)."""
        return self.generator(codes)

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        """The loss of codes (B, D) for images (B, 3, H, W) in [-1, 1], a mean over the batch."""
        return self.loss(self(codes), images)

    def on_fit_start(self) -> None:
        if self.hparams["compile"]:
            # The function, not the modules: keys of checkpoints and pictures in eval mode stay as they are.
            # Batches have two sizes, each compiled once.
            mode = "reduce-overhead" if self.device.type == "cuda" else None  # with CUDA graphs
            self.objective = torch.compile(self.objective, dynamic=False, mode=mode)  # type: ignore[method-assign]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, index = batch
        codes = self.latents(index)
        if self.rates.optimizer.param_groups[1]["lr"] == 0:
            codes = codes.detach()  # not yet: see latent_from
        if codes.requires_grad:
            # The loss is a mean over images; undo it for the codes, whose rate is per image.
            images_per_step = len(index) * self.trainer.accumulate_grad_batches
            codes.register_hook(lambda gradient: gradient * images_per_step)
        loss = self.objective(codes, images).clone()  # a CUDA graph writes the next one to the same place
        self._log_loss(loss.detach(), len(index))
        return loss

    def validation_step(self, batch: tuple[Tensor, Any], batch_idx: int) -> None:
        """Encodes held-out images, with the generator as it is, and logs their PSNR in dB.

        A few steps of each epoch go on from the codes that the epoch before has found, at first from the mean code.
        """
        images, _ = batch
        starts = self.latents.weight.mean(dim=0).expand(len(images), -1)
        if self.held_out is not None and self.held_out.shape == starts.shape:
            starts = self.held_out.to(starts)
        codes = encode(self, images, starts[:, None], steps=30)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.held_out = codes.detach().clone()
        error = (self(codes) - images).square().mean() / 4  # of images in [0, 1]
        self.log("val/psnr", -10 * torch.log10(error), prog_bar=True, batch_size=len(images), sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Reconstructs images (B, 3, H, W) in [-1, 1] from their codes."""
        _, index = batch
        return self(self.latents(index))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        table = self.latents.weight
        if table.grad is not None:
            rows = table.grad._indices()[0]
            with torch.no_grad():
                table[rows] = self.project(table[rows])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the generator's gradients; the steps of the codes are bounded by their constraint, and sparse."""
        if gradient_clip_val is not None:
            clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
            clip(self.generator.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        # One SGD with two groups serves dense and sparse gradients alike, and one step counts as one.
        groups = [
            {
                "params": list(self.generator.parameters()),
                "lr": self.generator_lr,
                "weight_decay": self.weight_decay,
                "name": "generator",
            },
            {"params": [self.latents.weight], "lr": self.latent_lr, "name": "latents"},
        ]
        optimizer = OPTIMIZERS[self.latent_optimizer](groups)
        factors = [lambda step: self.rate_factor(step), lambda step: self.rate_factor(step, self.latent_from)]
        self.rates = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.rates, "interval": "step"}}

    def rate_factor(self, step: int, begin: float = 0.0) -> float:
        """What a learning rate is multiplied with at that step, if it begins at that fraction of the run."""
        if math.isnan(self.total_steps):  # asked for before the run's length is known; on_train_start asks again
            return 1.0
        done = step / self.total_steps
        if done < begin:
            return 0.0
        if self.schedule == "constant":
            return 1.0
        return 0.5 + 0.5 * math.cos(math.pi * min((done - begin) / (1 - begin), 1.0))

    # ------------------------------------------------------------------------------ start, measures, several processes

    def configure_callbacks(self) -> list[Callback]:
        return [PCAStart()] if self.init == "pca" else []

    def on_train_start(self) -> None:
        if not self.started:
            self.start.copy_(self.latents.weight.detach()[: len(self.start)])
            self.started = True
        self._follow_schedule()

    def _follow_schedule(self) -> None:
        """Sets the rates of the coming step from this run's arguments and length, which a resume may have changed."""
        saved_steps, self.total_steps = self.total_steps, self.trainer.estimated_stepping_batches
        if self.schedule == "cosine" or self.latent_from > 0:
            if math.isinf(self.total_steps):
                key, value = ("schedule", "cosine") if self.schedule == "cosine" else ("latent_from", self.latent_from)
                raise InputError(key, value, "an endless run has no schedule; give max_epochs")
            if not math.isnan(saved_steps) and saved_steps != self.total_steps:
                message = "the schedule follows the new length of %d batches (was %d) from batch %d on"
                log.info(message, self.total_steps, saved_steps, self.global_step)
        self.rates.base_lrs = [self.generator_lr, self.latent_lr]
        factors = (self.rate_factor(self.global_step), self.rate_factor(self.global_step, self.latent_from))
        for group, rate, factor in zip(self.rates.optimizer.param_groups, self.rates.base_lrs, factors, strict=True):
            group["lr"] = rate * factor
        self.rates.optimizer.param_groups[0]["weight_decay"] = self.weight_decay

    def _log_loss(self, loss: Tensor, images: int) -> None:
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.trainer.is_last_batch or (
            every and (self.global_step + 1) % every == 0
        ):  # a call takes half a millisecond
            self.log("train/loss", loss, prog_bar=True, batch_size=images)
        total = torch.stack([loss.float() * images, torch.full_like(self.epoch_loss[0], images)])
        self.epoch_loss += torch.where(loss.isfinite(), total, torch.zeros_like(total))

    def on_train_epoch_start(self) -> None:
        self.epoch_loss.zero_()

    def on_train_epoch_end(self) -> None:
        total, images = self._epoch_loss_of_all()
        self.log("train/loss_epoch", total / images)
        codes = self.latents.weight.detach()
        self.log("latents/norm_mean", torch.linalg.vector_norm(codes, dim=1).mean())
        if len(self.start):
            self.log("latents/moved", torch.linalg.vector_norm(codes[: len(self.start)] - self.start, dim=1).mean())

    def _epoch_loss_of_all(self) -> Tensor:
        """Over all processes: the sum of the losses of the epoch's images so far, and their number."""
        return torch.as_tensor(self.trainer.strategy.reduce(self.epoch_loss.clone(), reduce_op="sum"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["format_version"] = FORMAT_VERSION
        checkpoint["total_steps"], checkpoint["started"] = self.total_steps, self.started
        checkpoint["held_out"] = self.held_out
        checkpoint["epoch_loss"] = self._epoch_loss_of_all().tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of a later format, or of a model of another shape.

        Raises:
            InputError: naming the argument that differs.
        """
        version = checkpoint.get("format_version", 0)
        if version > FORMAT_VERSION:
            remedy = f"the checkpoint is newer than this program, which reads {FORMAT_VERSION}; update the program"
            raise InputError("format_version", version, remedy)
        for key in ("num_images", "latent_dim", "image_size", "width"):
            saved, given = checkpoint["hyper_parameters"][key], self.hparams[key]
            if saved != given:
                raise InputError(key, given, f"the checkpoint was made with {saved}; give that, or begin a new run")
        start, rows = checkpoint["state_dict"]["start"], len(self.start)
        if rows > len(start):
            raise InputError("start_rows", rows, f"the checkpoint keeps {len(start)}; give as many or fewer")
        checkpoint["state_dict"]["start"] = start[:rows]
        self.started = checkpoint["started"] if version else not bool(start[0, 0].isnan())
        self.total_steps = checkpoint["total_steps"]
        self.held_out = checkpoint.get("held_out")
        if self._trainer is None or self.trainer.is_global_zero:  # the others' part is in it
            self.epoch_loss.copy_(torch.tensor(checkpoint.get("epoch_loss", [0, 0])))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Hands every process the rows of all: DDP would average them, and NCCL has no sparse all-reduce."""
        table = self.latents.weight
        if self.trainer.world_size == 1 or table.grad is None:
            return
        rows, values = table.grad._indices(), table.grad._values()
        most = self.trainer.strategy.reduce(torch.tensor(len(values), device=self.device), reduce_op="max")
        padding = int(most) - len(values)  # parts of a batch differ by at most one; a row of zeros moves nothing
        rows = torch.cat([rows, rows[:, :1].expand(-1, padding)], dim=1)
        values = torch.cat([values, values.new_zeros(padding, values.shape[1])])
        all_rows, all_values = torch.as_tensor(self.all_gather(rows)), torch.as_tensor(self.all_gather(values))
        gathered = torch.sparse_coo_tensor(all_rows.movedim(0, 1).flatten(1), all_values.flatten(0, 1), table.shape)
        table.grad = gathered.coalesce()  # a padded row is there twice
