"""What do the codes buy? python scripts/studies/baselines/baselines.py RUN --json FILE [--seconds 60] [--num 128]

Trains the run's recipe, its generator on frozen codes, and an autoencoder and a variational one around the same
generator, all for the same processor seconds. Measures training images as trained, and held-out ones: their codes come
from descent for the first three rows, from the encoder for the last two.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Recipe, Results, StudyParser, silence, train

from glo_lightning.data import LSUNDataModule
from glo_lightning.encoding import STARTS
from glo_lightning.explore.codes import generate
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.metrics import quality
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.generator import make_generator
from glo_lightning.images import from_uint8
from glo_lightning.module import GLO

MAX_TRAINING = 4096  # training images that are measured


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of normal distributions (B, D) from the standard one, in nats, a mean over B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


class Encoder(nn.Sequential):
    """DCGAN's discriminator, the generator's mirror image: images (B, 3, H, W) to vectors (B, outputs)."""

    def __init__(self, outputs: int, image_size: int = 64, width: int = 64):
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        size, channels = image_size // 2, width
        while size > 4:
            layers += [nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * channels)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            size, channels = size // 2, 2 * channels
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * 16, outputs))


class Autoencoder(LightningModule):
    """An encoder in the place of GLO's table, trained with the generator by Adam at a cosine rate.

    A variational one draws codes from the encoder's normal distribution and adds its divergence from the standard one,
    ``divergence_weight`` times, in nats a pixel and channel (Kingma and Welling, 2014).
    """

    def __init__(
        self,
        latent_dim: int,
        generator: nn.Module,
        loss: nn.Module,
        image_size: int = 64,
        width: int = 64,
        variational: bool = False,
        divergence_weight: float = 0.1,
        lr: float = 1e-3,
    ):
        super().__init__()
        self.encoder = Encoder(2 * latent_dim if variational else latent_dim, image_size, width)
        self.generator = generator
        self.to(memory_format=torch.channels_last)
        self.loss = loss
        self.variational, self.divergence_weight, self.lr = variational, divergence_weight, lr

    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, D) of images (B, 3, H, W); of a variational encoder their means."""
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
        sample = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        divergence = self.divergence_weight * kl_divergence(mean, log_variance) / images[0].numel()
        return self.loss(self.generator(sample), images) + divergence

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def make_recipes(trained: TrainedRun) -> dict[str, Recipe]:
    """The rows: the run's recipe, its generator on frozen codes, and behind an encoder."""
    model, arguments = trained.model, trained.config["data"]
    hparams = {key: value for key, value in model.hparams.items() if key not in ("num_images", "compile")}
    sizes = {key: hparams[key] for key in ("latent_dim", "image_size", "channels")}

    def glo(**changes: Any) -> Recipe:
        num_images = trained.data.num_images
        return lambda seed: (GLO(num_images, **hparams | changes), LSUNDataModule(**arguments | {"seed": seed}))

    def autoencoder(variational: bool) -> Recipe:
        def build(seed: int) -> tuple[LightningModule, LSUNDataModule]:
            generator = make_generator(hparams["generator"], **sizes)
            loss = copy.deepcopy(model.loss).train()
            width = hparams["generator"]["init_args"].get("width", 64)
            shape = (hparams["image_size"], width)
            made = Autoencoder(hparams["latent_dim"], generator, loss, *shape, variational=variational)
            return made, LSUNDataModule(**arguments | {"seed": seed})

        return build

    return {
        "GLO, the run's recipe": glo(),
        "the generator on frozen PCA codes": glo(init="pca", latent_lr=0),
        "the generator on frozen random codes": glo(init="random", latent_lr=0),
        "autoencoder": autoencoder(variational=False),
        "variational autoencoder": autoencoder(variational=True),
    }


def measure(model: GLO | Autoencoder, trained: TrainedRun, options: argparse.Namespace) -> dict[str, float]:
    """PSNR and SSIM of training images, as trained, and of held-out ones, encoded."""
    data, training = trained.data, trained.images(range(MAX_TRAINING))
    parts = {"training": training, "held-out": data.dataset[data.holdout_rows(options.num)][0]}
    measures: dict[str, float] = {}
    for name, part in parts.items():
        images = from_uint8(part)
        if isinstance(model, Autoencoder):
            with torch.no_grad():
                codes = torch.cat([model.encode(batch) for batch in images.split(128)])
        elif name == "training":
            codes = model.latents.weight[: len(images)]
        else:
            codes = model.encode(images, training, options.starts, steps=options.steps)
        reached = quality(generate(model, codes), images, trained.model.loss)
        measures |= {f"{name} PSNR, dB": reached["psnr"], f"{name} SSIM": reached["ssim"]}
    return measures


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("run", help="a run folder with held-out images")
    parser.add_repeat_arguments()
    parser.add_argument("--seconds", type=float, default=60, help="processor seconds of a training")
    parser.add_argument("--num", type=int, default=128, help="largest number of held-out images")
    parser.add_argument("--starts", nargs="+", default=["pca", "mean", "random"], choices=STARTS, help="of the descent")
    parser.add_argument("--steps", type=int, default=150, help="steps of descent for a held-out image")
    options = parser.parse_args()
    trained = load_run(options.run, "cpu")
    silence()
    results, recipes = Results(options.json), make_recipes(trained)
    results.measure_steps(options.seconds, recipes, options.precision, "cpu")
    for name, seed in results.missing(list(recipes), options.seeds):
        steps = results.steps[name]
        model, data, _ = train(recipes[name], seed, options.precision, "cpu", max_steps=steps, max_epochs=-1)
        results.add(name, {"epochs": steps / len(data.train_dataloader()), **measure(model, trained, options)})
    print(results.table(f"{options.seconds:g} seconds each", list(recipes)))


if __name__ == "__main__":
    main()
