"""Models with an encoder in the place of GLO's table: VAE, RAE, and the second stage of a two-stage VAE."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from glo_lightning.latents import identity

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of normal distributions (B, D) from the standard one, in nats, a mean over B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Draw from normal distributions (B, D)."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


def gaussian_loss(generated: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood (B, ...), in nats without constants, of a normal distribution of the best variance.

    Dai and Wipf (2019) learn this variance. Its optimum is the mean squared error, of which a batch has an estimate
    (Rybkin et al., arXiv 2006.13202): a short training need not wait until it is learned.
    """
    error = (generated - targets).square().mean()
    return 0.5 * targets[0].numel() * error.clamp(min=1e-8).log()


class Encoder(nn.Sequential):
    """DCGAN's discriminator, the generator's mirror image: images (B, C, H, W) to vectors (B, outputs)."""

    def __init__(self, outputs: int, image_size: int, channels: int, width: int):
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        size, hidden = image_size // 2, width
        while size > 4:
            layers += [nn.Conv2d(hidden, 2 * hidden, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * hidden)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            size, hidden = size // 2, 2 * hidden
        super().__init__(*layers, nn.Flatten(), nn.Linear(hidden * 16, outputs))


class Autoencoder(LightningModule):
    """An encoder and a generator, trained together at a cosine rate. Subclasses have a loss.

    Args:
        encoder: maps images (B, C, H, W) in [-1, 1] to what ``objective`` takes.
        generator: maps codes (B, D) to images.
        optimizer: of both, made with groups of weights.
    """

    weight_decay = 0.0  # of the generator
    project = staticmethod(identity)  # as a GLO has one

    def __init__(self, encoder: nn.Module, generator: nn.Module, optimizer: Callable[..., Optimizer] = ADAM):
        super().__init__()
        self.encoder, self.generator, self.optimizer = encoder, generator, optimizer
        self.to(memory_format=torch.channels_last)

    def objective(self, encoded: Tensor, images: Tensor) -> Tensor:
        raise NotImplementedError

    def codes(self, encoded: Tensor) -> Tensor:
        """The code (B, D) of each image, of what the encoder makes of it."""
        return encoded

    def forward(self, codes: Tensor) -> Tensor:
        return self.generator(codes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.objective(self.encoder(batch[0]).float(), batch[0])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        groups: list[dict[str, Any]] = [{"params": self.encoder.parameters(), "weight_decay": 0.0}]
        groups.append({"params": self.generator.parameters(), "weight_decay": self.weight_decay})
        optimizer = self.optimizer(groups)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class VAE(Autoencoder):
    """The variational autoencoder (Kingma and Welling, 2014) with a decoder whose variance fits the images."""

    def codes(self, encoded: Tensor) -> Tensor:
        return encoded.chunk(2, dim=1)[0]

    def objective(self, encoded: Tensor, images: Tensor) -> Tensor:
        mean, log_variance = encoded.chunk(2, dim=1)
        generated = self.generator(draw(mean, log_variance))
        return (gaussian_loss(generated, images) + kl_divergence(mean, log_variance)) / images[0].numel()


class RAE(Autoencoder):
    """The regularized autoencoder RAE-L2 (Ghosh et al., 2020): L2 on codes and on the decoder's weights.

    Weights of both terms as in the authors' code for MNIST, whose images are in [0, 1]. Adam's weight decay is the L2
    term's gradient.
    """

    weight_decay = 2 * 1e-7

    def objective(self, encoded: Tensor, images: Tensor) -> Tensor:
        error = (self.generator(encoded) - images).square().sum(dim=1).mean() / 4
        return error + 1e-4 * encoded.square().mean()


class Residual(nn.Module):
    """Three hidden layers whose output is joined with the input, as in Dai and Wipf's second stage."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.hidden = nn.Sequential(*hidden, nn.Linear(width, width), nn.ReLU())
        self.leave = nn.Linear(inputs + width, outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.leave(torch.cat([vectors, self.hidden(vectors)], dim=1))


class Standard:
    """The standard normal distribution: a VAE's prior, which needs no fit."""

    def fit(self, codes: Tensor) -> Standard:
        self.latent_dim = codes.shape[1]
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        return torch.randn(num, self.latent_dim, generator=torch.Generator().manual_seed(seed))


class SecondVAE:
    """A second VAE, on the codes of a first one, as a prior of these codes (Dai and Wipf, 2019).

    Args:
        steps: training steps of 256 codes, by Adam at a cosine rate.
        width: of the hidden layers.
    """

    def __init__(self, steps: int = 1000, width: int = 512):
        self.steps, self.width = steps, width

    def fit(self, codes: Tensor) -> SecondVAE:
        """Fit to codes (N, D), drawn from the first encoder's distributions."""
        latent_dim = codes.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = Residual(latent_dim, 2 * latent_dim, self.width)
            self.decoder = Residual(latent_dim, latent_dim, self.width)
            optimizer = torch.optim.Adam([*encoder.parameters(), *self.decoder.parameters()], lr=3e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            variance = 1.0
            for _ in range(self.steps):
                batch = codes[torch.randint(len(codes), (256,))]
                mean, log_variance = encoder(batch).chunk(2, dim=1)
                decoded = self.decoder(draw(mean, log_variance))
                loss = gaussian_loss(decoded, batch) + kl_divergence(mean, log_variance)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                variance += 0.05 * (float((decoded.detach() - batch).square().mean()) - variance)
        self.deviation, self.latent_dim = math.sqrt(variance), latent_dim
        return self

    @torch.no_grad()
    def sample(self, num: int, seed: int = 0) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        first, second = torch.randn(2, num, self.latent_dim, generator=random)
        return self.decoder(first) + self.deviation * second
