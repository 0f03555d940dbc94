"""What do the codes buy? python scripts/studies/baselines.py RUN [--seconds 60] [--seeds 3] [--num 128] [--json FILE]

Trains the run's recipe, its generator on frozen codes, an autoencoder and a variational one around the same generator,
at equal seconds with several seeds, and measures training images as trained and held-out ones, encoded (by descent for
the first three, by their encoder for the last two). What it has trained is kept beside the run and not trained again.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
from typing import Any

import torch
from harness import Recipe, mean_and_deviation, steps_within, train
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from glo_lightning.data import LSUNDataModule
from glo_lightning.encoding import STARTS
from glo_lightning.errors import check_at_least
from glo_lightning.explore.commands import CommandParser
from glo_lightning.explore.evaluation import generate, quality
from glo_lightning.explore.trained_run import TrainedRun, load_run
from glo_lightning.files import write_text
from glo_lightning.generator import make_generator
from glo_lightning.images import from_uint8
from glo_lightning.losses import make_loss
from glo_lightning.module import GLO

MOST = 4096  # training images looked at


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of normal distributions (B, D) from the standard normal one, in nats, a mean over B: Kingma and Welling, 2014."""
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
    """An encoder in the place of GLO's table; all of it is trained by Adam at a cosine rate.

    Args:
        latent_dim: D.
        generator: maps codes (B, D) to images; trained too.
        loss: GLO's, see ``make_loss``.
        image_size, width: of the encoder.
        variational: draws codes from the encoder's normal distribution and adds its divergence from the standard
            normal one (Kingma and Welling, 2014).
        divergence_weight: of the divergence in nats a pixel and channel, against the reconstruction loss.
        rate: Adam's.
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
        rate: float = 1e-3,
    ):
        super().__init__()
        self.encoder = Encoder(2 * latent_dim if variational else latent_dim, image_size, width)
        self.generator = generator
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
        weighted = self.divergence_weight * divergence(mean, log_variance) / images[0].numel()
        return self.loss(self.generator(drawn), images) + weighted

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def recipes_of(trained: TrainedRun) -> dict[str, Recipe]:
    """What is compared: the run's recipe, its generator on codes that stay, and behind an encoder."""
    model, data, arguments = trained.model, trained.data, trained.config["data"]
    hparams = {key: value for key, value in model.hparams.items() if key not in ("num_images", "compile")}
    sizes = {key: hparams[key] for key in ("latent_dim", "image_size", "width")}

    def glo(**changes: Any) -> Recipe:
        return lambda seed: (GLO(data.num_images, **hparams | changes), LSUNDataModule(**arguments | {"seed": seed}))

    def autoencoder(variational: bool) -> Recipe:
        def build(seed: int) -> tuple[LightningModule, LSUNDataModule]:
            generator = make_generator(hparams["generator"], **sizes, generator_args=hparams["generator_args"])
            loss = copy.deepcopy(model.loss).train()
            return Autoencoder(generator=generator, loss=loss, variational=variational, **sizes), LSUNDataModule(
                **arguments | {"seed": seed}
            )

        return build

    return {
        "GLO, the run's recipe": glo(),
        "the generator on frozen PCA codes": glo(init="pca", latent_lr=0),
        "the generator on frozen random codes": glo(init="random", latent_lr=0),
        "autoencoder": autoencoder(variational=False),
        "variational autoencoder": autoencoder(variational=True),
    }


def measure_all(trained: TrainedRun, options: argparse.Namespace) -> dict[str, Any]:
    """Trains the baselines, or those of them that are not in the file beside the run."""
    data, model = trained.data, trained.model
    cache = (trained.folder or options.run.parent) / f"baselines_{options.seconds:g}s.json"
    results: dict[str, Any] = json.loads(cache.read_text()) if cache.exists() else {}
    recipes = recipes_of(trained)
    precision = options.precision or trained.config["trainer"]["precision"] or "32-true"
    if any(len(results.get(name, {}).get("runs", [])) < options.seeds for name in recipes):
        accelerator = model.device.type if model.device.type == "cpu" else "gpu"
        lengths = steps_within(options.seconds, recipes, precision, accelerator)
        for name, recipe in recipes.items():
            epochs = lengths[name] / len(data.train_dataloader())
            entry = results.setdefault(name, {"steps": lengths[name], "epochs": epochs, "runs": []})
            for seed in range(len(entry["runs"]), options.seeds):
                other, _, _ = train(recipe, seed, precision, accelerator, max_steps=entry["steps"], max_epochs=-1)
                entry["runs"].append(measure(other.to(model.device), trained, options))
                write_text(cache, json.dumps(results, indent=1))
    return results


def measure(model: GLO | Autoencoder, trained: TrainedRun, options: argparse.Namespace) -> dict[str, Any]:
    """The quality on training images, as trained, and on held-out ones, encoded."""
    data, device = trained.data, trained.model.device
    training = trained.images(range(MOST))
    parts = {"train": training}
    if data.holdout:
        parts["holdout"] = data.dataset[data.holdout_rows(options.num)][0]
    loss = make_loss(options.loss, trained.model.hparams["image_size"]).to(device) if options.loss else None
    results = {}
    for name, part in parts.items():
        images = from_uint8(part.to(device))
        if isinstance(model, Autoencoder):
            with torch.no_grad():
                codes = torch.cat([model.encode(some) for some in images.split(128)])
        elif name == "train":
            codes = model.latents.weight[: len(images)]
        else:
            codes = model.encode(images, training, options.starts, loss=loss, steps=options.steps, progress=True)
        results[name] = quality(generate(model, codes), images, trained.model.loss)
    return results


def main() -> None:
    parser = CommandParser(__doc__, output="baselines.json", writes="the JSON file that it writes", flag="--json")
    parser.add_argument("--seconds", type=float, default=60, help="of training, for each baseline and seed")
    parser.add_argument("--seeds", type=int, default=3, help="of each baseline")
    parser.add_argument("--num", type=int, default=128, help="held-out images, at most")
    parser.add_argument("--starts", nargs="+", default=["pca", "mean", "random"], choices=STARTS)
    parser.add_argument("--steps", type=int, default=150, help="of encoding")
    parser.add_argument("--loss", help="of encoding: lap_l1, l2 or the path of a class; the run's if not given")
    parser.add_argument("--precision", help="of the training; the run's if not given")
    parser.call(lambda: run(parser.parse_args()))


def run(options: argparse.Namespace) -> None:
    for key in ("num", "steps", "seeds"):
        check_at_least(key, getattr(options, key), 1)
    trained = load_run(options.run, options.accelerator, options.root)
    logging.getLogger("glo_lightning").setLevel(logging.WARNING)  # not how each of them begins
    results = measure_all(trained, options)
    head = f"{options.seconds:g} seconds each | epochs | training PSNR, dB | SSIM | held-out PSNR, dB | SSIM"
    print(f"\n| {head} |\n|---|---|---|---|---|---|")
    for name, entry in results.items():
        cells = [
            mean_and_deviation([run[part][key] for run in entry["runs"] if part in run], digits)
            for part in ("train", "holdout")
            for key, digits in (("psnr", 2), ("ssim", 3))
        ]
        print(f"| {name} | {entry['epochs']:.1f} | {' | '.join(cells)} |")
    write_text(options.output.absolute(), json.dumps(results, indent=1))
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
