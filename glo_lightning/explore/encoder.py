"""Gives an image's code at once, by two linear maps, where descent takes half a second; fitted to a generator."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator

import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init
from tqdm import tqdm

from glo_lightning.images import from_uint8
from glo_lightning.module import GLO
from glo_lightning.priors.prior import Diagonal, sample_codes

SECONDS = 110.0  # of the fit, at most
FIRST_PAIRS = 16_384  # training images that the first map is fitted to, at most
STEP_PAIRS = 4096  # likewise, the second, and an eighth as many samples of the prior
BATCH = 32
RIDGE = 1e-3  # in mean variances of what is mapped

Read = Callable[[list[int]], Tensor]  # rows to uint8 images (b, C, H, W)


class Encoder(nn.Module):
    """Maps images (B, C, H, W) in [-1, 1] to codes (B, D), projected, with the help of their model.

    A linear map of the image at 32 pixels answers first. The gradient there of the squared error, between the image and
    what the generator makes of the answer, is mapped linearly to what the answer lacks: a step of descent whose metric
    is learned by regression, as in supervised descent (Xiong and De la Torre, CVPR 2013). Smaller images are seen as
    they are, at the next power of two below.

    Args:
        channels: C.
        image_size: H and W.
        latent_dim: D.
    """

    def __init__(self, channels: int, image_size: int, latent_dim: int):
        super().__init__()
        self.size = 1 << min(5, int(math.log2(image_size)))
        self.first = skip_init(nn.Linear, channels * self.size**2, latent_dim)  # both are fitted or loaded
        self.step = skip_init(nn.Linear, latent_dim, latent_dim)

    def forward(self, images: Tensor, model: GLO) -> Tensor:
        codes = model.project(self.first(self.pixels(images)))
        return model.project(codes + self.step(gradient(model, codes, images)))

    def pixels(self, images: Tensor) -> Tensor:
        """What the first map sees, (B, C * 32 * 32)."""
        return F.adaptive_avg_pool2d(images, self.size).flatten(1)


def gradient(model: GLO, codes: Tensor, images: Tensor) -> Tensor:
    """Of each image's squared error, with respect to its code, (B, D)."""
    with torch.inference_mode(False), torch.enable_grad():
        codes = codes.detach().clone().requires_grad_()
        return torch.autograd.grad(F.mse_loss(model(codes), images.clone(), reduction="sum"), codes)[0]


@torch.no_grad()
def fit_encoder(model: GLO, read: Read, seconds: float = SECONDS) -> Encoder:
    """Fits an encoder to the model's codes on its device, with a bar, in at most so many seconds.

    Both maps are ridge regressions, of the training images' codes and of what the first one's answers lack; for the
    second one, samples of a diagonal Gaussian, and their images, are an eighth more pairs.

    Args:
        model: in eval mode, its weights without gradients.
        read: gives the training images of rows.
        seconds: after which no more images are looked at.
    """
    codes, began = model.latents.weight.detach(), time.monotonic()
    encoder = Encoder(model.hparams["channels"], model.hparams["image_size"], codes.shape[1]).to(codes.device).eval()
    rows = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))[:FIRST_PAIRS]
    sampled = sample_codes(Diagonal().fit(codes), codes, STEP_PAIRS // 8, model.project).split(BATCH // 8)
    total = len(rows) + len(rows[:STEP_PAIRS])
    with tqdm(total=total, desc="fitting the encoder", unit=" images", file=sys.stdout) as bar:

        def batches(rows: Tensor, share: float) -> Iterator[tuple[Tensor, Tensor]]:
            """Images and codes of rows, until that share of the time is over."""
            for some in rows.split(BATCH):
                yield from_uint8(read(some.tolist()).to(codes.device)), codes[some.to(codes.device)]
                bar.update(len(some))
                if time.monotonic() - began >= share * seconds:
                    return

        seen = [(encoder.pixels(images), own) for images, own in batches(rows, share=0.5)]
        _regress(encoder.first, seen)
        seen = []
        for (images, own), others in zip(batches(rows[:STEP_PAIRS], share=1.0), sampled, strict=False):
            images, own = torch.cat([images, model(others)]), torch.cat([own, others])
            found = model.project(encoder.first(encoder.pixels(images)))
            seen.append((gradient(model, found, images), own - found))
        _regress(encoder.step, seen)
    return encoder.requires_grad_(False)


def _regress(layer: nn.Linear, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Sets a layer to the ridge regression of pairs (inputs, outputs)."""
    inputs, outputs = (torch.cat(part).cpu().numpy() for part in zip(*pairs, strict=True))
    penalty = RIDGE * len(inputs) * float(inputs.var(axis=0).mean()) + 1e-6  # images may be all alike
    found = Ridge(penalty, solver="cholesky", copy_X=False).fit(inputs, outputs)
    layer.weight.copy_(torch.as_tensor(found.coef_))
    layer.bias.copy_(torch.as_tensor(found.intercept_))
