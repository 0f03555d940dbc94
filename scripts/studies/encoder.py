"""What does an encoder's answer cost, and how good is it? python scripts/studies/encoder.py RUN [--num 128]

Fits an encoder to RUN, which has held-out images, and encodes these: by today's descent, by the encoder's first linear
map alone, by a convolutional network after it, by the encoder, and by descent from its answer. Milliseconds are a
processor's, of one thread, an image; the starts that look at the training images take seconds besides, once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glo_lightning.encoding import BETAS, NEAR, STARTS, starting_codes
from glo_lightning.explore.encoder import SECONDS, Encoder, Read, fit_encoder
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.flow import rate_at
from glo_lightning.explore.priors import Gaussian, sample_codes
from glo_lightning.explore.trained_run import load_run
from glo_lightning.images import from_uint8, psnr
from glo_lightning.module import GLO

RATE = 1e-3  # AdamW's, at its highest, of the network
BATCH = 32  # a quarter of it samples of the prior
LEFT = 4.0  # what is left of an image, times this, is about as large as the image


class Network(nn.Module):
    """Corrects a linear map's codes with convolutions, as ReStyle does (Alaluf et al., arXiv 2104.02699).

    It sees the image, and what the answer's own image leaves of it, at 64 pixels or the next power of two below:
    convolutions of stride 2 down to 4x4 pixels, BatchNorm and GELU after each, and a linear layer.

    Args:
        encoder: whose first map answers.
        channels: C.
        image_size: H and W, 8 or more.
        width: channels of the first convolution; each doubles them.
    """

    def __init__(self, encoder: Encoder, channels: int, image_size: int, width: int = 32):
        super().__init__()
        self.encoder = encoder
        self.size = min(64, 1 << (image_size.bit_length() - 1))
        latent_dim = encoder.step.in_features
        self.scale = latent_dim**-0.5  # of a code's numbers in the unit ball
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

    def forward(self, images: Tensor, model: GLO) -> Tensor:
        with torch.no_grad():
            codes = model.project(self.encoder.first(self.encoder.pixels(images)))
            left = images - model(codes)
        both = F.adaptive_avg_pool2d(torch.cat([images, LEFT * left], dim=1), self.size)
        return model.project(codes + self.scale * self.layers(both.contiguous(memory_format=torch.channels_last)))


def fit_network(model: GLO, read: Read, encoder: Encoder, seconds: float) -> Network:
    """Trains a network by AdamW, so that the model's loss between images and those of the answers falls."""
    codes, began = model.latents.weight.detach(), time.process_time()
    torch.manual_seed(0)
    network = Network(encoder, model.hparams["channels"], model.hparams["image_size"])
    network.to(memory_format=torch.channels_last)
    sampled = sample_codes(Gaussian().fit(codes), codes, 4096, model.project)
    optimizer = torch.optim.AdamW(network.layers.parameters(), lr=RATE)
    while (done := (time.process_time() - began) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = RATE * rate_at(done)
        rows = torch.randint(len(codes), (BATCH - BATCH // 4,))
        with torch.no_grad():
            made = model(sampled[torch.randint(len(sampled), (BATCH // 4,))])
            images = torch.cat([from_uint8(read(rows.tolist())), made])
        model.objective(network(images, model), images).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run with held-out images")
    parser.add_argument("--num", type=int, default=128, help="held-out images, at most")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a fit, at most")
    options = parser.parse_args()
    trained = load_run(options.run, "cpu")
    model, data = trained.model, trained.data
    wanted = from_uint8(data.dataset[data.holdout_rows(len(data.source))[: options.num]][0])
    torch.set_num_threads(1)
    spent = time.process_time()
    encoder = fit_encoder(model, trained.images, options.seconds)
    print(f"fitted in {time.process_time() - spent:.0f} s of a processor", flush=True)
    network = fit_network(model, trained.images, encoder, options.seconds)
    starts = starting_codes(model.latents.weight, trained.training(), wanted, STARTS, model.n_pca, model.whiten)
    print("| code | PSNR, dB | ms |\n|---|---|---|", flush=True)

    def add(name: str, find: Callable[[], Tensor]) -> Tensor:
        began = time.process_time()
        with torch.no_grad():
            codes = find()
        spent = 1000 * (time.process_time() - began) / len(wanted)
        print(f"| {name} | {psnr(generate(model, codes), wanted):.2f} | {spent:.1f} |", flush=True)
        return codes

    def one_by_one(encoder: nn.Module) -> Callable[[], Tensor]:
        return lambda: torch.cat([encoder(image[None], model) for image in wanted])

    def descent(starts: Tensor, steps: int, betas: tuple[float, float] = BETAS) -> Callable[[], Tensor]:
        return lambda: model.encode(wanted, starts=starts, steps=steps, betas=betas)

    add("PCA coordinates", lambda: model.project(starts[:, STARTS.index("pca")]))
    add("PCA coordinates, 10 steps", descent(starts[:, :1], 10, NEAR))
    add("first linear map", lambda: model.project(encoder.first(encoder.pixels(wanted))))
    codes = add("first linear map, then a network", one_by_one(network))[:, None]
    add("the network's, 10 steps", descent(codes, 10, NEAR))
    codes = add("encoder", one_by_one(encoder))[:, None]
    for steps in (10, 30):
        add(f"encoder, {steps} steps", descent(codes, steps, NEAR))
    add("encoder, 10 steps of Adam's usual betas", descent(codes, 10))
    add("encoder, 150 steps", descent(codes, 150))
    add("full descent", descent(starts, 150))
    add("full descent, the encoder among the starts", descent(torch.cat([codes, starts], dim=1), 150))


if __name__ == "__main__":
    main()
