"""What a GLO is compared with: autoencoders around the same generator, and any other recipe at equal seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import check_image_size
from glo_lightning.generator import Generator


class Encoder(nn.Sequential):
    """DCGAN's discriminator, the generator's mirror image: images (B, 3, H, W) to vectors (B, outputs)."""

    def __init__(self, outputs: int, image_size: int = 64, width: int = 64):
        check_image_size(image_size)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        size, channels = image_size // 2, width
        while size > 4:
            layers += [nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * channels)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            size, channels = size // 2, 2 * channels
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * 16, outputs))


class Autoencoder(LightningModule):
    """An encoder in the place of GLO's table; all of it is trained by Adam at a cosine rate.

    Args:
        latent_dim: D.
        loss: GLO's, see ``make_loss``.
        image_size, width: of generator and encoder.
        variational: draws codes from the encoder's normal distribution and adds its divergence from the standard
            normal one (Kingma and Welling, 2014).
        divergence_weight: of the divergence in nats a pixel and channel, against the reconstruction loss.
        rate: Adam's.
    """

    def __init__(
        self,
        latent_dim: int,
        loss: nn.Module,
        image_size: int = 64,
        width: int = 64,
        variational: bool = False,
        divergence_weight: float = 0.1,
        rate: float = 1e-3,
    ):
        super().__init__()
        self.encoder = Encoder(2 * latent_dim if variational else latent_dim, image_size, width)
        self.generator = Generator(latent_dim, image_size, width)
        self.to(memory_format=torch.channels_last)
        self.loss = loss
        self.variational, self.divergence_weight, self.rate = variational, divergence_weight, rate

    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, D) of images (B, 3, H, W); the mean ones of a variational encoder."""
        codes = self.encoder(images)
        return codes.chunk(2, dim=1)[0] if self.variational else codes

    def forward(self, codes: Tensor) -> Tensor:
        return self.generator(codes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        codes = self.encoder(images)
        if not self.variational:
            return self.loss(self.generator(codes), images)
        mean, log_variance = codes.float().chunk(2, dim=1)
        drawn = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        return self.loss(self.generator(drawn), images) + self.divergence_weight * divergence / images[0].numel()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


Make = Callable[[int], tuple[LightningModule, LSUNDataModule]]  # seed -> what to train, on what


class _Seconds(Callback):
    """Tells how long a step takes, the first one left out.

    On a CPU these are seconds of its processors' time, divided by the number of threads: other programs that run
    beside it hardly disturb them.
    """

    def now(self, trainer: Trainer) -> float:
        if trainer.strategy.root_device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            self.began = self.now(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.step = (self.now(trainer) - self.began) / max(trainer.global_step - 1, 1)


def train(make: Make, seed: int, precision: str, accelerator: str = "auto", **limits: Any) -> tuple[Any, Any, float]:
    """Trains what ``make`` makes; returns it in eval mode, its data, and the seconds that a step took.

    Args:
        make: from a seed to (module, datamodule).
        seed: of all random numbers.
        precision, accelerator, limits: of the Trainer, such as ``max_steps``.
    """
    seed_everything(seed, workers=True, verbose=False)
    model, data = make(seed)
    seconds = _Seconds()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    one: dict[str, Any] = {"accelerator": accelerator, "devices": 1, "precision": precision, "limit_val_batches": 0}
    Trainer(logger=False, callbacks=[seconds], **one, **quiet, **limits).fit(model, data)
    return model.eval().requires_grad_(False), data, seconds.step


def steps_within(seconds: float, makes: dict[str, Make], precision: str, accelerator: str = "auto") -> dict[str, int]:
    """Steps of each that fit into the seconds: by the fastest of three trials of 25, in which they take turns."""
    fastest = dict.fromkeys(makes, math.inf)
    for name in [*makes] * 3:
        _, _, step = train(makes[name], 0, precision, accelerator, max_steps=25, max_epochs=-1)
        fastest[name] = min(fastest[name], step)
    return {name: max(1, round(seconds / step)) for name, step in fastest.items()}
