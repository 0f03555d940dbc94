"""The generator: DCGAN's transposed convolutions (Radford et al., 2016), these with skips, or a class of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glo_lightning.class_path import FOREIGN, find_class, make_instance, reason
from glo_lightning.errors import InputError, check_at_least


class FirstLayer(nn.Linear):
    """DCGAN's first layer, which takes codes (B, D) to 4x4 pixels, (B, channels, 4, 4).

    A transposed convolution of a 1x1 image is a matrix product; as such, its pixels laid out with the channels last,
    it is several times faster. Its weights start as those of ``nn.ConvTranspose2d``, as the rates suppose.
    """

    def __init__(self, latent_dim: int, channels: int):
        super().__init__(latent_dim, channels * 16, bias=False)
        nn.init.uniform_(self.weight, -((channels * 16) ** -0.5), (channels * 16) ** -0.5)

    def forward(self, codes: Tensor) -> Tensor:
        return super().forward(codes).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)


class Generator(nn.Module):
    """Maps codes (B, D) to images (B, C, H, W) in [-1, 1].

    One layer takes the code to 4x4 pixels; each further one doubles the size and halves the channels, from
    ``width * image_size / 8`` (512 at 64 pixels) down to ``width``, then to ``channels``. BatchNorm and ReLU follow
    every layer but the last, which ends in tanh; none has a bias.

    Args:
        latent_dim: D, any size from 1.
        image_size: H and W; a power of two from 8 up.
        width: channels of the last hidden layer.
        channels: C.

    Raises:
        InputError: for a size out of these ranges.
    """

    def __init__(self, latent_dim: int, image_size: int = 64, width: int = 64, channels: int = 3):
        super().__init__()
        check_at_least("latent_dim", latent_dim, 1)
        check_at_least("width", width, 1)
        if image_size < 8 or image_size & (image_size - 1):
            raise InputError("image_size", image_size, "DCGAN's layers double it: give 32, 64, 128 or 256")
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


class SkipGenerator(Generator):
    """DCGAN whose layers, and the image, get the code once more: a linear map of it is added to what each makes.

    The map to the image alone is what PCA can do, and is learned in a few hundred steps; those to the hidden layers say
    what is to be at which place. Skips from the code are BigGAN's (Brock et al., arXiv 1809.11096), where they scale
    and shift channels. Each pixel has weights of its own here; they begin at zero, and the code is scaled so that the
    rate which suits weights that all pixels share suits these too.

    Args:
        latent_dim, image_size, width, channels: see Generator.
        told: which layers get the code, counted from the one that makes 8x8 pixels; all if not given.
        gain: of the code, whose entries in the ball are about ``latent_dim ** -0.5``.

    Raises:
        InputError: for a layer that is not there.
    """

    def __init__(
        self,
        latent_dim: int,
        image_size: int = 64,
        width: int = 64,
        channels: int = 3,
        told: Sequence[int] | None = None,
        gain: float = 8.0,
    ):
        super().__init__(latent_dim, image_size, width, channels)
        self.scale, self.skips = gain * latent_dim**0.5, nn.ModuleDict()
        layers = [layer for layer in self.layers if isinstance(layer, nn.ConvTranspose2d)]
        if told is not None and not set(told) <= set(range(len(layers))):
            raise InputError("told", told, f"there are the layers 0 to {len(layers) - 1}; give some of these")
        for level, layer in enumerate(layers):
            if told is None or level in told:
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


GENERATORS: dict[str, type[nn.Module]] = {"dcgan": Generator, "skip_z": SkipGenerator}


def make_generator(
    name: str,
    latent_dim: int,
    image_size: int,
    width: int,
    generator_args: Mapping[str, Any] | None = None,
    channels: int = 3,
) -> nn.Module:
    """Builds the generator of that name, a module that maps codes (B, D) to images (B, C, H, W) in [-1, 1].

    Args:
        name: ``dcgan``, ``skip_z`` (see SkipGenerator), or the path of a class that is made with (latent_dim,
            image_size, width, channels=3); one of RGB alone need not take the last.
        latent_dim, image_size, width: see Generator; what sizes there are is the class's to say.
        generator_args: further arguments of the class, plain values.
        channels: C, 3 or 1.

    Raises:
        InputError: for a name that is none of these, arguments that the class does not take, grey images where it
            takes no ``channels``, or what makes no images of that shape.
    """
    remedy = "give dcgan, skip_z or the path of a module's class made with (latent_dim, image_size, width, channels=3)"
    path = f"{__name__}.{GENERATORS[name].__qualname__}" if name in GENERATORS else name
    arguments = dict(generator_args or {})
    parameters = inspect.signature(find_class(path, nn.Module, "generator", remedy)).parameters
    if "channels" in parameters or any(kind.kind == kind.VAR_KEYWORD for kind in parameters.values()):
        arguments.setdefault("channels", channels)
    elif channels != 3:
        lacks = f"takes no channels, and so makes no grey images; {remedy}, or --data.channels 3"
        raise InputError("generator", name, lacks)
    made = make_instance(path, nn.Module, "generator", remedy, latent_dim, image_size, width, arguments=arguments)
    _check_images(made, name, (latent_dim, channels, image_size))
    return made


@torch.no_grad()
def _check_images(generator: nn.Module, name: str, sizes: tuple[int, int, int]) -> None:
    """Raises InputError for a generator whose images of two codes have another shape than (2, C, H, W)."""
    latent_dim, channels, image_size = sizes
    wanted, training = (2, channels, image_size, image_size), generator.training
    with torch.random.fork_rng(devices=[]):  # one that draws noise draws none of the run's
        try:
            images = generator.eval()(torch.zeros(2, latent_dim))
        except FOREIGN as error:
            message = f"does not take codes of latent_dim {latent_dim} ({reason(error)})"
            raise InputError("generator", name, message) from error
        finally:
            generator.train(training)
    shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if shape != wanted:
        remedy = f"give one that makes {wanted} of them, images of image_size {image_size} and {channels} channels"
        raise InputError("generator", name, f"makes {shape} of two codes; {remedy}")
