"""The generators: DCGAN's transposed convolutions (Radford et al., 2016), and the same with skips from the code."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.memory import check_fits
from glo_lightning.parts import PLUGIN_ERRORS, make_part, trying
from glo_lightning.pca import ImagePCA, join_patches


@runtime_checkable
class BeginsAtPCA(Protocol):
    """A generator that is told of the PCA that the codes begin at, to begin at its reconstructions."""

    def begin_at_pca(self, pca: ImagePCA) -> None: ...


def code_side(generator: nn.Module) -> int:
    """How many places from left to right a generator's codes have; 1 where a code is of the whole image."""
    return getattr(generator, "code_side", 1)


class FirstLayer(nn.Linear):
    """DCGAN's first layer: maps codes (B, D) to 4x4 pixels (B, channels, 4, 4).

    It is a transposed convolution of a 1x1 image, computed as a matrix product with the channels last, which is several
    times faster. Its weights are initialised like those of ``nn.ConvTranspose2d``, for which the learning rates are
    tuned.
    """

    def __init__(self, latent_dim: int, channels: int):
        super().__init__(latent_dim, channels * 16, bias=False)
        nn.init.uniform_(self.weight, -((channels * 16) ** -0.5), (channels * 16) ** -0.5)

    def forward(self, codes: Tensor) -> Tensor:
        return super().forward(codes).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)


class Generator(nn.Module):
    """Maps codes (B, D) to images (B, C, H, W) in [-1, 1].

    The first layer maps the code to 4x4 pixels. Each further layer doubles the size and halves the channels, from
    ``width * image_size / 8`` (512 at 64 pixels) down to ``width``, then to ``channels``. BatchNorm and ReLU follow
    every layer but the last, which ends in tanh. No layer has a bias.

    Args:
        latent_dim: D, at least 1.
        image_size: H and W, a power of two from 8 up.
        channels: C, 1 or 3.
        width: channels of the last hidden layer.

    Raises:
        InputError: for a size out of these ranges.
    """

    def __init__(self, latent_dim: int, image_size: int = 64, channels: int = 3, width: int = 64):
        super().__init__()
        check_at_least("latent_dim", latent_dim, 1)
        check_at_least("width", width, 1)
        if image_size < 8 or image_size & (image_size - 1):
            raise InputError("image_size", image_size, "DCGAN's layers double the size from 4. Give 32, 64, 128 or 256")
        hidden = width * image_size // 8
        layers: list[nn.Module] = [FirstLayer(latent_dim, hidden)]
        while hidden >= width:
            following = hidden // 2 if hidden > width else channels
            layers += [nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(hidden, following, kernel_size=4, stride=2, padding=1, bias=False)]
            hidden = hidden // 2
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes)


class PatchDecoder(nn.Linear):
    """A linear map from what a code has at each of ``side * side`` places to the patch of the image that is there.

    Codes (B, D) become images (B, C, H, W). It can do what the PCA of the images' patches does, of the whole images
    where side is 1, and begins there if it is told of it. Else it begins at zero.
    """

    def __init__(self, latent_dim: int, image_size: int, channels: int, side: int = 1):
        super().__init__(latent_dim // side**2, channels * (image_size // side) ** 2)
        self.side, self.channels = side, channels
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def begin_at(self, pca: ImagePCA, scale: float) -> None:
        """Decode codes, times scale, as the PCA does."""
        self.weight.copy_(pca.inverse().T / scale)
        self.bias.copy_(pca.mean)

    def forward(self, codes: Tensor) -> Tensor:
        places = codes.unflatten(1, (-1, self.side**2)).transpose(1, 2)
        return join_patches(super().forward(places).flatten(0, 1), self.side, self.channels)


def clamp(images: Tensor) -> Tensor:
    """Clamp images to [-1, 1]; their gradient is that of images that were not clamped."""
    return images + (images.clamp(-1, 1) - images).detach()


class ResidualBlock(nn.Module):
    """Adds to features (B, C, H, W) what two 3x3 convolutions make of them, at first nothing (He et al., 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
        nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class SpatialGenerator(nn.Module):
    """Maps codes that have a place for each place in the image, (B, c * side * side), to images (B, C, H, W).

    At each place of the code a linear map decodes a patch of the image, which begins as the PCA of the images' patches.
    A network adds to that: a 3x3 convolution of the code and residual blocks, which see what is around each place, then
    a transposed convolution for each doubling of the size, with BatchNorm and ReLU before each. Its last layer, a 3x3
    convolution, begins at zero, so that training begins at the PCA. In eval mode images are clamped to [-1, 1]. Train
    it with Muon (Jordan et al., 2024), as ``configs/photographs.yaml`` does: AdamW is far slower, and SGD at the
    paper's rate of 1 diverges, since there is no last tanh.

    Args:
        latent_dim: D, a multiple of ``side ** 2``.
        image_size: H and W, ``side`` times a power of two.
        channels: C, 1 or 3.
        width: channels of the last hidden layer; before each doubling of the size there are twice as many.
        side: number of places from left to right, and from top to bottom.
        blocks: number of residual blocks.

    Raises:
        InputError: for sizes that do not fit together.
    """

    def __init__(
        self,
        latent_dim: int,
        image_size: int = 64,
        channels: int = 3,
        width: int = 16,
        side: int = 8,
        blocks: int = 2,
    ):
        super().__init__()
        for key, value, least in (("width", width, 1), ("side", side, 1), ("blocks", blocks, 0)):
            check_at_least(key, value, least)
        doublings = (image_size // side).bit_length() - 1
        if doublings < 1 or image_size != side << doublings:
            remedy = f"doubling it must make image_size {image_size}. Give {image_size // 8} or {image_size // 16}"
            raise InputError("side", side, remedy)
        if latent_dim % side**2:
            remedy = f"is shared by {side} x {side} places. Give a multiple of {side**2}, such as {4 * side**2}"
            raise InputError("latent_dim", latent_dim, remedy)
        self.code_side, self.scale = side, 1.5 * latent_dim**0.5
        widths = [width << doubling for doubling in range(doublings, -1, -1)]
        self.decoder = PatchDecoder(latent_dim, image_size, channels, side)
        layers: list[nn.Module] = [nn.Conv2d(latent_dim // side**2, widths[0], 3, padding=1, bias=False)]
        layers += [ResidualBlock(widths[0]) for _ in range(blocks)]
        for hidden, following in itertools.pairwise(widths):
            layers += [nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(hidden, following, kernel_size=4, stride=2, padding=1, bias=False)]
        last = nn.Conv2d(width, channels, 3, padding=1, bias=False)  # the linear map has a bias
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True), last)

    def begin_at_pca(self, pca: ImagePCA) -> None:
        self.decoder.begin_at(pca, self.scale)

    def forward(self, codes: Tensor) -> Tensor:
        codes = self.scale * codes
        places = codes.unflatten(1, (-1, self.code_side, self.code_side))
        images = self.decoder(codes) + self.layers(places)
        # in training the loss must see values outside [-1, 1]: nothing else would hold them back
        return images if self.training else clamp(images)


class SkipGenerator(Generator):
    """DCGAN with skips from the code: a linear map of the code is added to the output of each layer.

    The map to the image can do what PCA does, and is learned in a few hundred steps. The maps to hidden layers say what
    belongs at which place. Skips from the code are BigGAN's (Brock et al., arXiv 1809.11096), where they scale and
    shift channels. Here every pixel has weights of its own. They start at zero, and the code is scaled so that one
    learning rate suits these weights and those that all pixels share.

    Args:
        latent_dim, image_size, channels, width: see Generator.
        skip_layers: the layers that get a skip, counted from the one that makes 8x8 pixels; all if not given.
        code_scale: factor on the code, whose entries in the ball are about ``latent_dim ** -0.5``.

    Raises:
        InputError: for a layer that does not exist.
    """

    def __init__(
        self,
        latent_dim: int,
        image_size: int = 64,
        channels: int = 3,
        width: int = 64,
        skip_layers: Sequence[int] | None = None,
        code_scale: float = 8.0,
    ):
        super().__init__(latent_dim, image_size, channels, width)
        self.scale, self.skips = code_scale * latent_dim**0.5, nn.ModuleDict()
        layers = [layer for layer in self.layers if isinstance(layer, nn.ConvTranspose2d)]
        if skip_layers is not None and not set(skip_layers) <= set(range(len(layers))):
            raise InputError("skip_layers", skip_layers, f"there are layers 0 to {len(layers) - 1}. Give some of these")
        for level, layer in enumerate(layers):
            if skip_layers is None or level in skip_layers:
                skip = nn.Linear(latent_dim, layer.out_channels * (8 << level) ** 2)
                self.skips[str(level)] = skip
                nn.init.zeros_(skip.weight)
                nn.init.zeros_(skip.bias)

    def forward(self, codes: Tensor) -> Tensor:
        features, level = codes, 0
        for layer in self.layers:
            features = layer(features)
            if isinstance(layer, nn.ConvTranspose2d):
                if str(level) in self.skips:
                    added, side = self.skips[str(level)](self.scale * codes), features.shape[2]
                    features = features + added.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)
                level += 1
        return features


def make_generator(description: Mapping[str, Any], latent_dim: int, image_size: int, channels: int) -> nn.Module:
    """Makes a generator and checks that it maps codes (B, D) to images (B, C, H, W).

    The class of the description, see ``parts.describe_part``, is made with D, H and C and its further arguments.

    Raises:
        InputError: for a class that cannot be made with these, does not fit into memory, or makes other images.
    """
    path, arguments = description["class_path"], description["init_args"]
    make = functools.partial(make_part, description, nn.Module, "generator")
    width = ("generator.width", arguments["width"]) if "width" in arguments else ("generator", path)
    # too much by its own width, or by the number of dimensions
    for key, value, dimensions in ((*width, 1), ("latent_dim", latent_dim, latent_dim)):
        needed = 0
        with contextlib.suppress(*PLUGIN_ERRORS), torch.random.fork_rng(devices=[]), torch.device("meta"):
            tried = make(dimensions, image_size, channels)  # errors are reported when it is made below
            needed = sum(weight.nbytes for weight in tried.parameters())
        check_fits(key, value, f"{path} and its gradients", 2 * needed)
    generator = make(latent_dim, image_size, channels)
    fault, training = f"does not take codes of latent_dim {latent_dim}", generator.training
    remedy = "Mend it, or give another class"
    # a generator that draws noise must not advance the run's random numbers
    with trying("generator", path, fault, remedy), torch.no_grad(), torch.random.fork_rng(devices=[]):
        images = generator.eval()(torch.zeros(2, latent_dim))
    generator.train(training)
    wanted = (2, channels, image_size, image_size)
    shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if shape != wanted:
        remedy = f"Give one that makes {wanted}, images of image_size {image_size} and {channels} channels"
        raise InputError("generator", path, f"makes {shape} from two codes. {remedy}")
    return generator
