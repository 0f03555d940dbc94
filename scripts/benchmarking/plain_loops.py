"""The two loops that GLO is timed against: minimal_glo's way, and a careful hand-written one."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

LEVELS = 3
GENERATOR_LR, CODES_LR = 1.0, 10 / 128  # minimal_glo's; that of the codes is per image


def plain_generator(latent_dim: int, width: int) -> nn.Sequential:
    """DCGAN's generator as it is usually written: codes (B, D, 1, 1) to images (B, 3, 64, 64) in [-1, 1]."""
    channels = [latent_dim, 8 * width, 4 * width, 2 * width, width]
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(channels)):
        stride, padding = (2, 1) if number else (1, 0)
        layers += [nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


def blur_kernel() -> Tensor:
    """The 5x5 Gaussian of sigma 2, one for each of three channels, (3, 1, 5, 5)."""
    grid = np.float32(np.mgrid[0:5, 0:5].T) - 2
    kernel = np.exp(-(grid**2).sum(-1) / (2 * 2.0**2))
    return torch.tensor(kernel / kernel.sum()).expand(3, 1, 5, 5)


def plain_pyramid(images: Tensor, kernel: Tensor) -> list[Tensor]:
    """Bands and residual of images (B, 3, H, W), with convolutions."""
    pyramid = []
    for _ in range(LEVELS):
        blurred = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
        pyramid.append(images - blurred)
        images = F.avg_pool2d(blurred, 2)
    return [*pyramid, images]


def to_ball(codes: Tensor) -> Tensor:
    return codes / codes.norm(dim=1, keepdim=True).clamp(min=1)


class Records(Protocol):
    """Images as they lie on a disk: encoded, by index."""

    def __len__(self) -> int: ...

    def record(self, index: int, /) -> bytes: ...


class PlainDataset(Dataset):
    """LSUN as minimal_glo reads it: Pillow decodes a record whenever it is wanted, torchvision resizes it to 64x64."""

    def __init__(self, source: Records):
        self.source = source
        steps = [transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(io.BytesIO(self.source.record(index))).convert("RGB")), index


class MinimalLoop:
    """minimal_glo's training loop, float32: codes in NumPy, two pyramids, the loss read in every step."""

    def __init__(self, num_images: int, latent_dim: int, width: int, device: torch.device):
        self.device = device
        self.generator = plain_generator(latent_dim, width).to(device)
        codes = np.random.default_rng(0).normal(size=(num_images, latent_dim))
        self.codes = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1)

    def batches(self, source: Records, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches of images (B, 3, 64, 64) in [-1, 1] and rows (B,), on the host, for ever."""
        loader = DataLoader(
            PlainDataset(source), batch_size, shuffle=True, drop_last=True,
            num_workers=workers, persistent_workers=workers > 0, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        while True:
            yield from loader

    def step(self, images: Tensor, index: Tensor) -> float:
        """One step on a batch that lies on the host; the loss."""
        images = images.to(self.device)
        codes = torch.tensor(self.codes[index.numpy()], dtype=torch.float32, device=self.device, requires_grad=True)
        groups = [{"params": self.generator.parameters(), "lr": GENERATOR_LR}]
        groups += [{"params": [codes], "lr": CODES_LR * len(index)}]
        optimizer = torch.optim.SGD(groups)
        generated = self.generator(codes[:, :, None, None])
        # its kernel is made anew at each call
        pyramids = [plain_pyramid(some, blur_kernel().to(self.device)) for some in (generated, images)]
        loss = torch.stack([F.l1_loss(fake, image) for fake, image in zip(*pyramids, strict=True)]).sum()
        self.generator.zero_grad()
        loss.backward()
        optimizer.step()
        moved = codes.detach().cpu().numpy()
        self.codes[index.numpy()] = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1)
        return loss.item()


class CarefulLoop(nn.Module):
    """What somebody who knows PyTorch writes by hand, without compiling: everything lies on the device.

    Decoded images, the table and the order of an epoch are on the device; one pyramid, of the difference, whose kernel
    is a buffer; channels last; autocast; the rows of a batch are written back by their index; the loss is read every
    ``log_every`` steps.

    Args:
        images: (N, 3, 64, 64), uint8, on the device.
        low: computes the generator in bfloat16.
    """

    kernel: Tensor

    def __init__(self, images: Tensor, latent_dim: int, width: int, low: bool, log_every: int = 50):
        super().__init__()
        self.images, self.log_every = images, log_every
        self.register_buffer("kernel", blur_kernel().contiguous())
        self.generator = plain_generator(latent_dim, width)
        self.to(images.device)
        self.generator.to(memory_format=torch.channels_last)
        self.codes = to_ball(torch.randn(len(images), latent_dim, device=images.device))
        self.optimizer = torch.optim.SGD(self.generator.parameters(), lr=GENERATOR_LR)
        self.autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=low)
        self.losses: list[float] = []

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Rows (B,) of shuffled batches, on the device, for ever; images left over sit an epoch out."""
        while True:
            order = torch.randperm(len(self.images), device=self.images.device)
            yield from order[: len(order) - len(order) % batch_size].split(batch_size)

    def step(self, rows: Tensor) -> Tensor:
        """One step on these rows; the loss, still on the device."""
        images = self.images.index_select(0, rows).float().div_(127.5).sub_(1)
        images = images.contiguous(memory_format=torch.channels_last)
        codes = self.codes.index_select(0, rows).requires_grad_()
        with self.autocast:
            generated = self.generator(codes[:, :, None, None])
        loss = torch.stack([band.abs().mean() for band in plain_pyramid(generated.float() - images, self.kernel)]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            assert codes.grad is not None
            moved = to_ball(codes - CODES_LR * len(rows) * codes.grad)
            self.codes.index_copy_(0, rows, moved)
        return loss.detach()

    def run(self, batches: Iterator[Tensor], steps: int) -> None:
        """So many steps; ``losses`` gets what is read on the way."""
        for step in range(1, steps + 1):
            loss = self.step(next(batches))
            if step % self.log_every == 0:
                self.losses.append(loss.item())
