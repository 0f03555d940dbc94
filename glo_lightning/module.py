"""Generative Latent Optimization (Bojanowski et al., ICML 2018) as a LightningModule."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from torch import Tensor, nn

from glo_lightning.checkpoint_format import FORMAT_VERSION, check_format, check_same_model
from glo_lightning.distributed import broadcast_from_first, gather_rows, rank_weight, rows_by_rank
from glo_lightning.encoding import STARTS, encode, starting_codes
from glo_lightning.errors import InputError, check_at_least, check_choice
from glo_lightning.generator import Generator, code_side, make_generator
from glo_lightning.images import psnr
from glo_lightning.latents import PROJECTIONS, Constraint, Init, init_from_pca, per_sample_gradients
from glo_lightning.lightning_internals import OWN_CLASS, exclude_from_ddp, loss_scale
from glo_lightning.loaders import check_batch, sequential_batches
from glo_lightning.losses import LaplacianLoss, make_loss
from glo_lightning.memory import check_fits
from glo_lightning.optimizers import RowSGD, Schedule, lr_factor, make_optimizer, scale_lrs
from glo_lightning.parts import describe_part, make_part, to_builtin
from glo_lightning.pca import check_pca, max_pca_images

log = logging.getLogger(__name__)

STATE = ("initialised", "total_steps")  # what a checkpoint has besides weights and codes
PAPERS_SGD = functools.partial(torch.optim.SGD, lr=1.0)
PARTS = ("generator", "loss", "optimizer", "latent_optimizer")  # arguments that are classes with arguments of their own


class GLO(LightningModule):
    """A generator and one latent vector per image, learned together by gradient descent on a reconstruction loss.

    The algorithm, for a batch of images x_i and the rows z_i of the latent table:

    1. generate: generator(z_i), in [-1, 1] like the images;
    2. compare: loss(generator(z_i), x_i), the L1 distance of Laplacian pyramids;
    3. step: the optimizer's on the generator's weights, SGD on the rows of this batch alone;
    4. project these rows back into the unit ball.

    The parts ``generator``, ``loss``, ``optimizer`` and ``latent_optimizer`` are classes, or ``functools.partial`` of
    classes with plain keyword arguments, so that a checkpoint can describe them.

    Args:
        num_images: N, the number of rows. On the command line it is read from the data.
        latent_dim: D.
        image_size: H and W. The generator decides which sizes exist.
        channels: C, 3 for RGB or 1 for grey. On the command line it is read from the data.
        generator: class that is made with (latent_dim, image_size, channels) and maps codes (B, D) to images
            (B, C, H, W) in [-1, 1].
        loss: class of a module that maps (generated, images) to a scalar, a mean over the batch.
        optimizer: class of the generator's optimizer, any of torch's.
        latent_optimizer: class of the rows' optimizer, ``RowSGD``, ``WhitenedRows`` or a subclass.
        latent_lr: learning rate of the rows, per image: a row moves by this times the gradient of its own image's loss,
            whatever the batch size. minimal_glo's 10 for a mean over 128 images is 10/128. 0 freezes the codes.
        init: initial codes: the images' ``pca`` coordinates or ``random`` normal vectors, both projected.
        n_pca: number of images that the PCA is fitted on, at most.
        whiten: scales the PCA coordinates to equal variances, so that most codes lie inside the ball. Without it most
            lie far outside, and projection keeps only their direction: the first few coordinates'.
        constraint: unit ``ball``, unit ``sphere`` or ``none``.
        schedule: of both learning rates: ``constant``, or ``cosine`` to zero over the run.
        compile: compiles generator and loss for training: a minute at the start, then faster steps.

    Raises:
        InputError: for a value out of range, a part that cannot be made, and more than fits into memory.
    """

    def __init__(
        self,
        num_images: int,
        latent_dim: int = 128,
        image_size: int = 64,
        channels: int = 3,
        generator: Callable[[int, int, int], nn.Module] = Generator,
        loss: Callable[[], nn.Module] = LaplacianLoss,
        optimizer: Callable[[Iterable], torch.optim.Optimizer] = PAPERS_SGD,
        latent_optimizer: Callable[[int], RowSGD] = RowSGD,
        latent_lr: float = 10 / 128,
        init: Init = "pca",
        n_pca: int = 24_576,
        whiten: bool = False,
        constraint: Constraint = "ball",
        schedule: Schedule = "constant",
        compile: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self._describe_parts()
        self._check_arguments()
        network = make_generator(self.hparams["generator"], latent_dim, image_size, channels)
        self.generator = network.to(memory_format=torch.channels_last)  # the faster layout, on CPU and GPU
        self.loss = make_loss(self.hparams["loss"], image_size, channels).requires_grad_(False)  # is not learned
        self.latent_optimizer = make_part(self.hparams["latent_optimizer"], RowSGD, "latent_optimizer", latent_dim)
        make_optimizer(self.hparams["optimizer"], self.generator.parameters())  # what is wrong with it is reported now
        self.init, self.n_pca = init, self._num_pca_images()
        self.whiten, self.schedule, self.project = whiten, schedule, PROJECTIONS[constraint]
        self.latent_lr = self._latent_lr_now = float(latent_lr)
        codes = self.project(torch.randn(num_images, latent_dim))
        self.latents = nn.Embedding(num_images, latent_dim, sparse=True, _weight=codes)
        self.latents.requires_grad_(self.latent_lr > 0)
        self.initialised = False  # whether the codes are, in this run or in the one whose checkpoint was loaded
        self.total_steps: float = math.nan
        self._scheduled_lrs: dict[int, float] = {}  # of the optimizer's groups, as the schedule has set them last
        self.ddp_loss_weight = 1.0  # of this process's part of a batch in the mean over all processes
        buffers = [f"latent_optimizer.{name}" for name, _ in self.latent_optimizer.named_buffers()]
        exclude_from_ddp(self, ["latents.weight", *buffers])  # rows are gathered in optimizer_step

    def _describe_parts(self) -> None:
        """Makes the hyperparameters plain values, which a checkpoint can hold and load without unpickling."""
        self.hparams.pop("_instantiator", None)  # the command line's: GLO makes its parts itself, of the right kinds
        self.hparams.update({key: describe_part(self.hparams[key], key) for key in PARTS})
        self.hparams.update(to_builtin(dict(self.hparams)))

    def _check_arguments(self) -> None:
        """Refuses values out of range, and what cannot fit into memory, before anything is made."""
        hparams = self.hparams
        for key, least in (("num_images", 1), ("latent_dim", 1), ("latent_lr", 0)):
            check_at_least(key, hparams[key], least)
        for key, choices in (("init", Init), ("constraint", Constraint), ("schedule", Schedule)):
            check_choice(key, hparams[key], choices)
        num_images, latent_dim = hparams["num_images"], hparams["latent_dim"]
        check_fits("latent_dim", latent_dim, f"a table of {num_images} codes", 4 * num_images * latent_dim)

    def _num_pca_images(self) -> int:
        """How many images a PCA is fitted on. Refuses more dimensions than a PCA of these has."""
        hparams, features = self.hparams, self.hparams["channels"] * self.hparams["image_size"] ** 2
        n_pca, num_images = max_pca_images(hparams["n_pca"], features), hparams["num_images"]
        if hparams["init"] == "pca":
            check_pca(hparams["latent_dim"], num_images, n_pca, features, code_side(self.generator))
            if n_pca < min(hparams["n_pca"], num_images):
                message = "the PCA is fitted on %d images, not n_pca %d: more of %d pixels would not fit into memory"
                log.info(message, n_pca, hparams["n_pca"], hparams["image_size"])
        return n_pca

    def forward(self, codes: Tensor) -> Tensor:
        """Generates images (B, C, H, W) in [-1, 1] from codes (B, D)."""
        return self.generator(codes)

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        """The loss of codes (B, D) for images (B, C, H, W) in [-1, 1], a mean over the batch."""
        return self.loss(self.generator(codes), images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, index = batch  # (B, C, H, W) in [-1, 1], (B,)
        self.ddp_loss_weight = rank_weight(rows_by_rank(self.trainer.train_dataloader, [batch_idx]))
        batches_per_step = self.trainer.accumulate_grad_batches / self.ddp_loss_weight
        codes = per_sample_gradients(self.latents(index), batches_per_step)  # (B, D)
        return self.objective(codes, images)  # 1. generate, 2. compare

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss if self.ddp_loss_weight == 1 else self.ddp_loss_weight * loss, *args, **kwargs)
        gradient = self.latents.weight.grad
        if gradient is not None and loss_scale(self.trainer) != 1 and not gradient._values().isfinite().all():
            for weight in self.generator.parameters():  # the scaler looks at these alone, and now skips the step
                weight.grad = torch.full_like(weight, math.inf)

    def optimizer_step(self, epoch: int, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self.set_learning_rates(self.global_step)
        scale = loss_scale(self.trainer)
        super().optimizer_step(epoch, batch_idx, *args, **kwargs)  # training_step, its gradients, 3. step the weights
        first = batch_idx - batch_idx % self.trainer.accumulate_grad_batches
        counts = rows_by_rank(self.trainer.train_dataloader, range(first, batch_idx + 1))
        table = self.latents.weight
        if table.grad is not None and loss_scale(self.trainer) >= scale:  # it falls when a step is left out
            gradient = gather_rows(table.grad if scale == 1 else table.grad / scale, counts)
            rows = gradient._indices()[0]
            with torch.no_grad():
                self.latent_optimizer.update_rows(table, gradient, self._latent_lr_now)  # 3. step the rows
                table[rows] = self.project(table[rows])  # 4. project
        table.grad = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        named = self.named_parameters()  # a subclass may have weights besides the generator's
        weights = [weight for name, weight in named if not name.startswith(("latents.", "loss."))]
        return make_optimizer(self.hparams["optimizer"], weights)

    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]

    def set_learning_rates(self, step: int) -> None:
        """Sets the rates of that step by the schedule; a rate that a scheduler or a callback has set is left to it."""
        factor = lr_factor(self.schedule, step, self.total_steps)
        self._latent_lr_now = self.latent_lr * factor
        if self.schedule != "constant" and not self.trainer.lr_scheduler_configs:
            scale_lrs(self._groups(), factor, self._scheduled_lrs)

    def learning_rates(self) -> dict[str, float]:
        """The rates of the last step by name: of each group of the optimizer, and of the ``latents``."""
        rates = {group.get("name", str(number)): group["lr"] for number, group in enumerate(self._groups())}
        return rates | {"latents": self._latent_lr_now}

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
            pca = (self.n_pca, self.whiten, code_side(self.generator))
            starts = starting_codes(self.latents.weight.detach(), training, images, starts, *pca)
        return encode(self.generator, images, starts, loss or self.loss, self.project, **options)

    def validation_step(self, batch: tuple[Tensor, Any], batch_idx: int) -> None:
        """Logs the PSNR in dB of held-out images."""
        measured = self.quick_psnr(batch[0])
        self.log("val/psnr", measured, prog_bar=True, batch_size=len(batch[0]), sync_dist=True)

    def quick_psnr(self, images: Tensor) -> Tensor:
        """PSNR in dB of images without rows, encoded by 60 steps from the nearest of 256 generated images.

        The figure depends on weights and codes alone, not on earlier validations. It takes as long as 256 images
        generated and 60 training steps of a batch of the images, and comes within 0.05 dB of a full ``encode``.
        """
        table = self.latents.weight
        num = min(len(table), 256)
        codes = table[torch.arange(num, device=table.device) * len(table) // num]
        generated = torch.cat([self(some) for some in codes.split(len(images))])
        nearest = torch.cdist(images.flatten(1).float(), generated.flatten(1).float()).argmin(dim=1)
        return psnr(self(self.encode(images, starts=codes[nearest, None], steps=60)), images)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Reconstructs images (B, C, H, W) in [-1, 1] from their codes."""
        return self(self.latents(batch[1]))

    def configure_callbacks(self) -> list[Callback]:
        """The curves and pictures of a Trainer that has none. Refuses callbacks that would set rates wrongly."""
        from glo_lightning.training.callbacks import missing_callbacks, refuse_callbacks

        refuse_callbacks(self.trainer, self)
        return missing_callbacks(self.trainer)

    def on_fit_start(self) -> None:
        """Initialises codes that are not yet, the same in all processes, and compiles the objective."""
        if self.init == "pca" and not self.initialised:
            images = sequential_batches(self.trainer)
            init_from_pca(self.latents.weight.data, images, self.project, self.n_pca, self.whiten, self.generator)
            for weight in self.generator.parameters():  # one that begins as the PCA
                broadcast_from_first(weight.data)
        broadcast_from_first(self.latents.weight.data)  # random ones too: each process may have had a seed of its own
        if self.hparams["compile"]:  # the function, not the modules: keys of checkpoints and pictures stay as they are
            # CUDA graphs; gradients that are added up over batches would lie in the graph's own memory
            graphs = self.device.type == "cuda" and self.trainer.accumulate_grad_batches == 1
            mode = "reduce-overhead" if graphs else None
            self.objective = torch.compile(self.objective, dynamic=False, mode=mode)  # type: ignore[method-assign]

    def on_train_start(self) -> None:
        self.initialised, self._is_first_batch, self._scheduled_lrs = True, True, {}
        saved, self.total_steps = self.total_steps, self.trainer.estimated_stepping_batches
        if self.schedule == "cosine":
            if math.isinf(self.total_steps):
                raise InputError("schedule", self.schedule, "an endless run has no schedule; give max_epochs")
            if not math.isnan(saved) and saved != self.total_steps:
                message = "the schedule follows the new length of %d batches (was %d) from batch %d on"
                log.info(message, self.total_steps, saved, self.global_step)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self._is_first_batch:
            check_batch(batch, self.latents.num_embeddings, self.hparams["channels"], self.hparams["image_size"])
            self._is_first_batch = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"format_version": FORMAT_VERSION} | {key: getattr(self, key) for key in STATE}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another format, or of a model of another shape."""
        check_format(checkpoint)
        check_same_model(checkpoint, self.hparams, self.state_dict())
        for key in STATE:
            setattr(self, key, checkpoint[key])

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **kwargs: Any) -> GLO:  # type: ignore[override]
        """As Lightning's; no argument is needed. Raises InputError for a checkpoint of another format."""
        check_format(torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True))
        arguments = {"weights_only": True, **kwargs, **OWN_CLASS}
        return super().load_from_checkpoint(checkpoint_path, **arguments)

    @classmethod
    def from_pretrained(cls, name: str) -> GLO:
        """Loads an exported run: a folder, ``faces``, which ships, or ``user/repo`` on the Hugging Face Hub."""
        from glo_lightning.explore.exported import find_export, load_export

        return load_export(find_export(name), cls)[0]
