"""Generators to compare with DCGAN's, each given by class path: --model.generator studies.decoders.Residual

Each maps codes (B, D) to images (B, C, H, W) in [-1, 1], and is made with (latent_dim, image_size, width, channels).
Hidden layers have DCGAN's sizes and channels, and its last layer follows them: what differs is what lies between. Only
``Residual``, ``Skip`` and DCGAN itself use the statistics of a batch.
"""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from glo_lightning.generator import FirstLayer


def hidden_channels(image_size: int, width: int) -> list[int]:
    """Channels at 4x4 pixels, 8x8 pixels and so on, up to half the image's size: ``width``."""
    return [width * image_size // 8 >> level for level in range(image_size.bit_length() - 3)]


def last_layer(width: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh())


class Rms(nn.Module):
    """Divides each pixel's channels by their root mean square (Karras et al., 2018); a picture stands by itself."""

    def forward(self, features: Tensor) -> Tensor:
        return features * features.square().mean(1, keepdim=True).add(1e-6).rsqrt()


class UpBlock(nn.Module):
    """Doubles the size by pixel shuffle, beside a shortcut that shuffles the input's own channels (DC-AE, 2410.10733).

    Then a residual layer at the new size.
    """

    def __init__(self, channels: int, following: int, norm: bool):
        super().__init__()
        self.repeats = -(-4 * following // channels)
        self.up = nn.Conv2d(channels, 4 * following, 3, padding=1)
        self.refine = nn.Conv2d(following, following, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) if norm else Rms() for n in (channels, following))
        nn.init.zeros_(self.refine.weight)  # the shortcut alone at the start

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features.repeat_interleave(self.repeats, 1)[:, : self.up.out_channels]
        features = F.pixel_shuffle(self.up(self.norms[0](features).relu()) + shortcut, 2)
        return features + self.refine(self.norms[1](features).relu())


class Residual(nn.Module):
    """A stack of ``UpBlock``s, with BatchNorm."""

    norm = True

    def __init__(self, latent_dim: int, image_size: int = 64, width: int = 64, channels: int = 3):
        super().__init__()
        sizes = hidden_channels(image_size, width)
        self.first = FirstLayer(latent_dim, sizes[0])
        self.blocks = nn.Sequential(*(UpBlock(one, two, self.norm) for one, two in itertools.pairwise(sizes)))
        self.last = last_layer(width, channels)

    def forward(self, codes: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(codes)).relu())


class ResidualRms(Residual):
    """The same without batch statistics."""

    norm = False


class Modulated(nn.Module):
    """The code modulates every layer: AdaIN with a mapping network (LORD, 1906.11796; AdaIMLE, 2210.06605; StyleGAN).

    A learned 4x4 constant is where it begins; instance normalisation needs no batch.
    """

    def __init__(self, latent_dim: int, image_size: int = 64, width: int = 64, channels: int = 3, mapped: int = 256):
        super().__init__()
        sizes = hidden_channels(image_size, width)
        self.constant = nn.Parameter(torch.randn(1, sizes[0], 4, 4))
        self.mapping = nn.Sequential(
            nn.Linear(latent_dim, mapped), nn.LeakyReLU(0.2), nn.Linear(mapped, mapped), nn.LeakyReLU(0.2)
        )
        pairs = list(itertools.pairwise(sizes))
        self.convolutions = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairs)
        self.styles = nn.ModuleList(nn.Linear(mapped, 2 * size) for size in sizes)
        self.last = last_layer(width, channels)

    def forward(self, codes: Tensor) -> Tensor:
        style = self.mapping(codes * codes.shape[1] ** 0.5)  # of codes in the ball: a variance of about 1
        features = self._styled(self.constant.expand(len(codes), -1, -1, -1), style, 0)
        for number, convolution in enumerate(self.convolutions, 1):
            features = self._styled(convolution(features), style, number)
        return self.last(features)

    def _styled(self, features: Tensor, style: Tensor, number: int) -> Tensor:
        scale, shift = self.styles[number](style)[:, :, None, None].chunk(2, 1)
        return F.leaky_relu(F.instance_norm(features) * (1 + scale) + shift, 0.2)


class Skip(nn.Module):
    """Skip-layer excitation (FastGAN, Liu et al., 2101.04775): channels of late layers are gated by early ones."""

    def __init__(self, latent_dim: int, image_size: int = 64, width: int = 64, channels: int = 3):
        super().__init__()
        sizes = hidden_channels(image_size, width)
        self.first = FirstLayer(latent_dim, sizes[0])
        self.norm = nn.BatchNorm2d(sizes[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, 2 * b, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * b), nn.GLU(1))
            for a, b in itertools.pairwise(sizes)
        )
        self.gates = nn.ModuleList(self._gate(sizes[early], sizes[early + 2]) for early in range(len(sizes) - 2))
        self.last = last_layer(width, channels)

    @staticmethod
    def _gate(early: int, late: int) -> nn.Module:
        squeeze = [nn.AdaptiveAvgPool2d(4), nn.Conv2d(early, late, 4), nn.LeakyReLU(0.1)]
        return nn.Sequential(*squeeze, nn.Conv2d(late, late, 1), nn.Sigmoid())

    def forward(self, codes: Tensor) -> Tensor:
        features = [self.norm(self.first(codes)).relu()]
        for number, block in enumerate(self.blocks, 1):
            made = block(features[-1])
            features.append(made * self.gates[number - 2](features[number - 2]) if number >= 2 else made)
        return self.last(features[-1])


class Transformer(nn.Module):
    """A transformer on patches of 8x8 pixels, each a learned position to which the code is added (ViT's decoder)."""

    def __init__(self, latent_dim: int, image_size: int = 64, width: int = 64, channels: int = 3, depth: int = 2):
        super().__init__()
        self.side, dim = image_size // 8, 4 * width
        self.positions = nn.Parameter(0.5 * torch.randn(self.side**2, dim))
        self.code = nn.Linear(latent_dim, dim)
        layer = functools.partial(nn.TransformerEncoderLayer, dim, 4, 2 * dim, 0.0, "gelu", batch_first=True)
        self.layers = nn.Sequential(*(layer(norm_first=True) for _ in range(depth)))
        self.last = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 64 * channels))

    def forward(self, codes: Tensor) -> Tensor:
        code = self.code(codes * codes.shape[1] ** 0.5)
        patches = self.last(self.layers(self.positions + code[:, None]))  # (B, side^2, 64 C)
        return F.pixel_shuffle(patches.mT.unflatten(2, (self.side, self.side)), 8).tanh()


class Normless(nn.Module):
    """DCGAN with weight normalisation (Salimans and Kingma, 2016) and ``Rms`` where it has BatchNorm."""

    def __init__(self, latent_dim: int, image_size: int = 64, width: int = 64, channels: int = 3):
        super().__init__()
        sizes = hidden_channels(image_size, width)
        layers: list[nn.Module] = [FirstLayer(latent_dim, sizes[0])]
        for one, two in itertools.pairwise([*sizes, channels]):
            layers += [Rms(), nn.ReLU(), weight_norm(nn.ConvTranspose2d(one, two, 4, 2, 1), dim=1)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes)
