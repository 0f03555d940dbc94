"""A network that gives an image's code at once, where descent takes half a second; fitted to a trained generator."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from glo_lightning.encoding import Generate
from glo_lightning.explore.flow import rate_at
from glo_lightning.explore.priors import Gaussian, sample_codes
from glo_lightning.images import from_uint8
from glo_lightning.module import GLO

BATCH = 32
STEPS = 1000  # of the fit, at most
SECONDS = 110.0  # likewise
RATE = 1e-3  # Adam's, at its highest
SAMPLED = 0.25  # of a batch: samples of the prior
SAMPLES = 4096
RIDGE = 1e-3  # of the linear map, in mean variances of a pixel
MOST_LINEAR = 16_384  # images that it is fitted to

LEFT = 4.0  # what is left of an image, times this, is about as large as the image

Read = Callable[[list[int]], Tensor]  # rows to uint8 images (b, C, H, W)


class Encoder(nn.Module):
    """Maps images (B, C, H, W) in [-1, 1] to codes (B, D), not yet projected, with the help of their generator.

    A linear map of the image at 32 pixels answers first. A small convolutional network sees the image and what the
    answer's own image leaves of it, at 64 pixels, and corrects the answer, as ReStyle does (Alaluf et al., arXiv
    2104.02699): convolutions of stride 2 down to 4x4 pixels, BatchNorm and GELU after each, and a linear layer. Smaller
    images are seen as they are, at the next power of two below.

    Args:
        channels: C.
        image_size: H and W.
        latent_dim: D.
        width: channels of the first convolution; each doubles them.
    """

    def __init__(self, channels: int, image_size: int, latent_dim: int, width: int = 32):
        super().__init__()
        self.size = 1 << min(6, int(math.log2(image_size)))
        self.coarse = min(self.size, 32)
        self.scale = latent_dim**-0.5  # of a code's numbers in the unit ball
        self.linear = nn.Linear(channels * self.coarse**2, latent_dim).requires_grad_(False)
        layers: list[nn.Module] = []
        channels, size = 2 * channels, self.size
        while size > 4:
            layers += [nn.Conv2d(channels, width, kernel_size=4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.GELU()]
            channels, width, size = width, 2 * width, size // 2
        last = nn.Linear(channels * size**2, latent_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, nn.Flatten(), last)

    def forward(self, images: Tensor, generate: Generate) -> Tensor:
        """``generate`` makes images of codes (B, D) that may lie outside their set."""
        codes = self.linear(self.pixels(images))
        with torch.no_grad():
            left = images - generate(codes)
        both = F.adaptive_avg_pool2d(torch.cat([images, LEFT * left], dim=1), self.size)
        return codes + self.scale * self.layers(both.contiguous(memory_format=torch.channels_last))

    def pixels(self, images: Tensor) -> Tensor:
        """What the linear map sees, (B, C * 32 * 32)."""
        return F.adaptive_avg_pool2d(images, self.coarse).flatten(1)

    @torch.no_grad()
    def fit_linear(self, read: Read, codes: Tensor) -> None:
        """Fits the linear map to codes (N, D) by ridge regression; what the network adds begins at nothing."""
        num = min(len(codes), MOST_LINEAR)
        batches = [list(range(first, min(first + 512, num))) for first in range(0, num, 512)]
        seen = torch.cat([self.pixels(from_uint8(read(rows).to(codes.device))) for rows in batches])
        mean, mean_code = seen.mean(0), codes[:num].mean(0)
        seen -= mean
        gram = seen.T @ seen
        gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).eps)
        self.linear.weight.copy_(torch.linalg.solve(gram, seen.T @ (codes[:num] - mean_code)).T)
        self.linear.bias.copy_(mean_code - self.linear.weight @ mean)


def fit_encoder(model: GLO, read: Read, steps: int = STEPS, seconds: float = SECONDS) -> Encoder:
    """Fits an encoder to the model's codes on its device, with a bar, in at most so many steps and seconds.

    The linear map is fitted to the training images' codes; then the network, by AdamW, so that the model's own loss
    between images and what the generator makes of the answers falls. A quarter of a batch are samples of a Gaussian
    fitted to the codes, as the generator decodes them. The generator stays as it is.

    Args:
        model: in eval mode, its weights without gradients.
        read: gives the training images of rows.
        steps, seconds: whichever comes first; the rate falls to zero with it.
    """
    began = time.monotonic()
    codes, device = model.latents.weight.detach(), model.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = (model.hparams["channels"], model.hparams["image_size"], codes.shape[1])
        encoder = Encoder(*shape).to(device).to(memory_format=torch.channels_last)
    encoder.fit_linear(read, codes)
    random = torch.Generator().manual_seed(0)
    sampled = sample_codes(Gaussian().fit(codes), codes, SAMPLES, model.project)
    num_sampled = round(SAMPLED * BATCH)
    optimizer = torch.optim.AdamW(encoder.layers.parameters(), lr=RATE)
    done, step = 0.0, 0
    with tqdm(total=100, desc="fitting the encoder", unit="%", file=sys.stdout) as bar:
        while done < 1:
            optimizer.param_groups[0]["lr"] = RATE * rate_at(done)
            rows = torch.randint(len(codes), (BATCH - num_sampled,), generator=random)
            some = sampled[torch.randint(len(sampled), (num_sampled,), generator=random).to(device)]
            with torch.no_grad():
                images = torch.cat([from_uint8(read(rows.tolist()).to(device)), model(some)])
            model.objective(answer(encoder, model, images), images).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            done = max(step / steps, (time.monotonic() - began) / seconds)
            bar.update(min(100, int(100 * done)) - bar.n)
    return encoder.eval().requires_grad_(False)


def answer(encoder: Encoder, model: GLO, images: Tensor) -> Tensor:
    """The encoder's codes (B, D), projected, of images (B, C, H, W) in [-1, 1]."""
    return model.project(encoder(images, lambda codes: model(model.project(codes))))
