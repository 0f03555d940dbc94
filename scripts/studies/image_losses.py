"""Losses to compare with the pyramid, each given by class path: --model.loss studies.image_losses.FocalFrequency

Each maps (generated, images), both (B, C, H, W) in [-1, 1], to a scalar, a mean over the batch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from glo_lightning.class_path import make_instance, reason
from glo_lightning.errors import InputError
from glo_lightning.images import to_unit


class FocalFrequency(nn.Module):
    """Mean squared error of pixels, and of the spectrum, where each frequency weighs as much as it is wrong.

    Focal frequency loss (Jiang et al., ICCV 2021): ``w |F(x) - F(y)|^2``, w the distance itself over the largest of an
    image, without a gradient.

    Args:
        weight: of the spectrum's term.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, generated: Tensor, images: Tensor) -> Tensor:
        difference = generated.float() - images.float()
        squares = torch.view_as_real(torch.fft.fft2(difference, norm="ortho")).square().sum(-1)
        distances = squares.detach().sqrt()
        focus = distances / distances.amax((-2, -1), keepdim=True).clamp(min=1e-8)
        return difference.square().mean() + self.weight * (focus * squares).mean()


class WatsonDFT(nn.Module):
    """Errors of a block's Fourier coefficients over what its own content hides (Czolbe et al., NeurIPS 2020).

    Each overlapping block of pixels is transformed; an error of a coefficient c counts relative to ``max(t, |c|^w
    t^(1 - w))``: t is what the eye sees of that frequency, w how much content masks. All t are one, and w is that of
    Watson's model of JPEG, 0.7: the paper's own values were fitted to human judgements and are not at hand.

    Args:
        block: pixels of a block's side.
        threshold: t.
        masking: w.
    """

    def __init__(self, block: int = 8, threshold: float = 0.1, masking: float = 0.7):
        super().__init__()
        self.block, self.threshold, self.masking = block, threshold, masking

    def forward(self, generated: Tensor, images: Tensor) -> Tensor:
        one, other = self._spectra(generated), self._spectra(images)
        hidden = other.abs().clamp(min=1e-8) ** self.masking * self.threshold ** (1 - self.masking)
        errors = torch.view_as_real(one - other).square().sum(-1) / hidden.clamp(min=self.threshold).square()
        return (errors.mean((1, 2, 3)) + 1e-8).sqrt().mean()

    def _spectra(self, images: Tensor) -> Tensor:
        """(B, C * blocks, block, block / 2 + 1), complex."""
        images = images.float()
        blocks = images.unfold(2, self.block, self.block // 2).unfold(3, self.block, self.block // 2)
        return torch.fft.rfft2(blocks.flatten(1, 3), norm="ortho")


class Perceptual(nn.Module):
    """L1 of pixels, and L1 of a network's features at several depths (Johnson et al., 2016; Hoshen et al., 2019).

    Args:
        weights: a file of torchvision's VGG16: safetensors, or a state dict.
        trunk: instead, the path of a module's class that maps images (B, 3, H, W) in [-1, 1] to a list of features.
        trunk_args: of that class.
        weight: of the features' term.

    Raises:
        InputError: for neither, a file that is not there, and keys that do not fit.
    """

    def __init__(
        self,
        weights: str | None = None,
        trunk: str | None = None,
        trunk_args: dict[str, Any] | None = None,
        weight: float = 1.0,
    ):
        super().__init__()
        if (weights is None) == (trunk is None):
            raise InputError("loss_args", {"weights": weights, "trunk": trunk}, "give one of both")
        remedy = "give the path of a module's class"
        self.trunk: nn.Module = (
            VGG(weights)
            if weights is not None
            else make_instance(str(trunk), nn.Module, "trunk", remedy, arguments=trunk_args)
        )
        self.trunk.eval().requires_grad_(False)
        self.weight = weight

    def train(self, mode: bool = True) -> Perceptual:
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, generated: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.trunk(images)
        terms = [
            F.l1_loss(made.float(), other.float()) for made, other in zip(self.trunk(generated), wanted, strict=True)
        ]
        return F.l1_loss(generated.float(), images.float()) + self.weight * torch.stack(terms).mean()


class Scale(nn.Module):
    """Channels less a mean, over a deviation; torchvision's Normalize would copy both to a GPU in every call."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: list[float], deviation: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.deviation


class VGG(nn.Module):
    """The features of torchvision's VGG16 after relu1_2, relu2_2, relu3_3 and relu4_3.

    Args:
        weights: a file of its state dict; the classifier's part may be missing.
    """

    LAST = (3, 8, 15, 22)

    def __init__(self, weights: str | os.PathLike[str]):
        super().__init__()
        self.features = make_layers(cfgs["D"])[: self.LAST[-1] + 1]
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.features.load_state_dict(read_weights(Path(weights), self.features))
        self.scale = Scale([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    def forward(self, images: Tensor) -> list[Tensor]:
        features, found = self.scale(to_unit(images)), []
        for number, layer in enumerate(self.features):
            features = layer(features)
            if number in self.LAST:
                found.append(features)
        return found


# of ST-LPIPS's networks, by a key that each alone has: convolution, ReLU, largest of a window, blur with stride 2;
# features are taken at each bar
LAYERS = {"net.slice5.13.weight": "cbr|mbcr|mbcr|cr|cr", "net.slice5.32.weight": "crcr|mbcrcr" + 3 * "|mbcrcrcr"}


class ShiftTolerant(nn.Module):
    """The trunk of ST-LPIPS (Ghildyal and Liu, ECCV 2022), an AlexNet or a VGG16 that blurs, and its distance.

    Its weights are files of the PyPI package stlpips-pytorch 0.0.2 (BSD 2-Clause): ``alex_shift_tolerant.pth`` and
    ``vgg_shift_tolerant.pth``.

    Args:
        weights: such a file.

    Raises:
        InputError: for a file that is not there or is none of these.
    """

    def __init__(self, weights: str | os.PathLike[str]):
        super().__init__()
        remedy = "give a file of stlpips-pytorch"
        try:
            self.found = torch.load(weights, "cpu", weights_only=True)
        except Exception as error:  # as in read_weights
            raise InputError("weights", weights, f"cannot be read ({reason(error)}); {remedy}") from error
        kinds = [layers for key, layers in LAYERS.items() if isinstance(self.found, dict) and key in self.found]
        if not kinds:
            raise InputError("weights", weights, f"has no key {' or '.join(LAYERS)}; {remedy}")
        number, self.slices, window = 0, nn.ModuleList(), 2 if "crcr" in kinds[0] else 3
        for depth, letters in enumerate(kinds[0].split("|"), 1):
            layers = nn.Sequential()
            for letter in letters:
                layers.append(self._layer(letter, f"net.slice{depth}.{number}.", window))
                number += 1
            self.slices.append(layers)
        for depth in range(len(self.slices)):
            self.register_buffer(f"channels_{depth}", self.found[f"lin{depth}.model.1.weight"])
        del self.found
        self.scale = Scale([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])

    def _layer(self, letter: str, key: str, window: int) -> nn.Module:
        if letter == "r":
            return nn.ReLU()
        if letter == "m":
            return nn.MaxPool2d(window, stride=1)
        weight = self.found[key + ("weight" if letter == "c" else "filt")]
        following, before, size, _ = weight.shape
        if letter == "b":
            layer = nn.Conv2d(following, following, size, 2, 2, groups=following, bias=False, padding_mode="reflect")
            layer.load_state_dict({"weight": weight})
        else:
            layer = nn.Conv2d(before, following, size, padding=min(size // 2, 2))
            layer.load_state_dict({"weight": weight, "bias": self.found[key + "bias"]})
        return layer

    def forward(self, images: Tensor) -> list[Tensor]:
        features, found = self.scale(images), []
        for layers in self.slices:
            features = layers(features)
            found.append(features)
        return found

    @torch.no_grad()
    def distance(self, generated: Tensor, images: Tensor) -> Tensor:
        """How unlike the eye finds images (B, 3, H, W) in [-1, 1] to be, (B,)."""
        total = images.new_zeros(len(images))
        for depth, pair in enumerate(zip(self(generated), self(images), strict=True)):
            one, other = (F.normalize(features, dim=1) for features in pair)
            total += F.conv2d((one - other).square(), getattr(self, f"channels_{depth}")).mean((1, 2, 3))
        return total


def read_weights(file: Path, features: nn.Module) -> dict[str, Tensor]:
    """The weights of these features out of a file of VGG16's.

    Raises:
        InputError: for a file that is not there or cannot be read, and for keys or shapes that do not fit.
    """
    remedy = "give a file of torchvision's VGG16, safetensors or a state dict"
    try:
        found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises differs from version to version
        raise InputError("weights", file, f"cannot be read ({reason(error)}); {remedy}") from error
    wanted = features.state_dict()
    for key, value in wanted.items():
        had = found.get(f"features.{key}") if isinstance(found, dict) else None
        if not isinstance(had, Tensor):
            raise InputError("weights", file, f"features.{key}: no such key; {remedy}")
        if had.shape != value.shape:
            shapes = f"of shape {tuple(had.shape)}, not {tuple(value.shape)}"
            raise InputError("weights", file, f"features.{key}: {shapes}; {remedy}")
    return {key: found[f"features.{key}"] for key in wanted}
