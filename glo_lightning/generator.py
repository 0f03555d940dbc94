"""The generator: DCGAN's stack of transposed convolutions (Radford et al., 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from glo_lightning.errors import check_at_least, check_image_size


class Generator(nn.Module):
    """Maps codes (B, D) to images (B, C, H, W) in [-1, 1].

    One layer takes the code to 4x4 pixels; each further one doubles the size and halves the channels, from
    ``width * image_size / 8`` (512 at 64 pixels) down to ``width``, then to ``channels``. No layer but the last,
    which ends in tanh, goes without BatchNorm and ReLU; none has a bias.

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
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, hidden, kernel_size=4, bias=False)]
        while hidden >= width:
            following = hidden // 2 if hidden > width else channels
            layers += [nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(hidden, following, kernel_size=4, stride=2, padding=1, bias=False)]
            hidden = hidden // 2
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes[:, :, None, None])  # (B, D) -> (B, D, 1, 1) -> (B, C, H, W)
