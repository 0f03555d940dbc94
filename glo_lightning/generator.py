"""The generator: DCGAN's stack of transposed convolutions (Radford et al., 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from glo_lightning.errors import check_at_least, check_image_size


class Project(nn.Linear):
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
        image_size: H and W; 32, 64 or 128.
        width: channels of the last hidden layer.
        channels: C.

    Raises:
        InputError: for a size out of these ranges.
    """

    def __init__(self, latent_dim: int, image_size: int = 64, width: int = 64, channels: int = 3):
        super().__init__()
        check_at_least("latent_dim", latent_dim, 1)
        check_at_least("width", width, 1)
        check_image_size(image_size)
        hidden = width * image_size // 8
        layers: list[nn.Module] = [Project(latent_dim, hidden)]
        while hidden >= width:
            following = hidden // 2 if hidden > width else channels
            layers += [nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(hidden, following, kernel_size=4, stride=2, padding=1, bias=False)]
            hidden = hidden // 2
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes)
