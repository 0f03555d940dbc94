"""How good is it beside other models? python scripts/studies/baselines/baselines.py DATA... --json FILE --seconds 60

DATA are any of: shipped (the faces that come with the package), and folders that are called mnist, fashion and crops.
Every row has a decoder of the same size and trains for the same processor seconds; then priors that are learned take
the same seconds each. Rows of one model share its training. --only ROW... trains these rows alone.

The features are EfficientNet-Lite0's (pip install -e '.[metrics]'), and for MNIST a digit classifier's as well. All
distances are to held-out images, which nothing was fitted to.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "priors"))

from autoencoders import ADAM, RAE, VAE, Autoencoder, Encoder, SecondVAE, Standard, draw
from compare_priors import train_features
from harness import BATCH, MUON, Results, StudyParser, silence, train
from other_priors import IMLE

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.codes import generate
from glo_lightning.explore.features import extract, load_features
from glo_lightning.explore.metrics import frechet, precision_and_recall, quality
from glo_lightning.generator import Generator, SpatialGenerator, code_side
from glo_lightning.images import from_uint8, to_uint8
from glo_lightning.losses import LaplacianLoss
from glo_lightning.module import GLO
from glo_lightning.optimizers import WhitenedRows
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.gaussian import Gaussian, Mixture
from glo_lightning.priors.prior import Prior, sample_codes

N_PCA = 4096  # images that a PCA is fitted to
MAX_CODES = 10_000  # codes that a prior is fitted to
SETS: dict[str, dict[str, Any]] = {
    "shipped": {"holdout": 500, "image_size": 64},
    "mnist": {"holdout_split": "test", "image_size": 32},
    "fashion": {"holdout_split": "test", "image_size": 32},
    "crops": {"holdout_split": "val", "image_size": 64},
}


class Row(NamedTuple):
    """A row of the table: a model, and a prior by its number of steps, or of another kind."""

    model: str
    prior: Callable[..., Prior]
    is_learned: bool = False  # whether the prior takes a number of steps


ROWS = {
    "GLO, Gaussian (the paper)": Row("GLO", Gaussian),
    "GLANN": Row("GLO", lambda steps: IMLE(rounds=steps), True),
    "VAE": Row("VAE", Standard),
    "two-stage VAE": Row("VAE", SecondVAE, True),
    "VAE, Muon": Row("VAE, Muon", Standard),
    "two-stage VAE, Muon": Row("VAE, Muon", SecondVAE, True),
    "RAE, L2, mixture": Row("RAE", lambda: Mixture(10)),
    "RAE, L2, mixture, Muon": Row("RAE, Muon", lambda: Mixture(10)),
    "ours, vector codes, flow": Row("ours, vector", Flow, True),
    "ours, vector codes, flow, Muon": Row("ours, vector, Muon", Flow, True),
    "ours, spatial codes, flow, Muon": Row("ours, spatial, Muon", Flow, True),
}
FLOOR = "training images"


def datamodule(name: str, seed: int) -> LSUNDataModule:
    folder = None if name == "shipped" else name
    return LSUNDataModule(folder, batch_size=BATCH, seed=seed, **SETS[Path(name).name])


def make(name: str, data_name: str, seed: int, **changes: Any) -> tuple[GLO | Autoencoder, LSUNDataModule]:
    """Make one of the models and its data; ``changes`` are arguments of a GLO."""
    data = datamodule(data_name, seed)
    size, channels = data.image_size, data.num_channels
    latent_dim = 64 if size == 32 else 256  # 4 x 4 x 4 and 4 x 8 x 8
    sizes: dict[str, Any] = {"latent_dim": latent_dim, "image_size": size, "channels": channels}
    generator = functools.partial(Generator, width=32)
    kind, muon = name.removesuffix(", Muon"), name.endswith(", Muon")
    if kind in ("VAE", "RAE"):
        encoder = Encoder(2 * latent_dim if kind == "VAE" else latent_dim, size, channels, width=32)
        return (VAE if kind == "VAE" else RAE)(encoder, generator(**sizes), MUON if muon else ADAM), data
    pyramid = functools.partial(LaplacianLoss, l2_weight=1.0)
    ours = {"whiten": True, "schedule": "cosine", "loss": pyramid}
    decayed = functools.partial(torch.optim.SGD, lr=1.0, weight_decay=1e-3)
    spatial = functools.partial(SpatialGenerator, width=size // 4, side=size // 8)
    rows = {"latent_optimizer": WhitenedRows, "latent_lr": 0.02}
    arguments: dict[str, dict[str, Any]] = {
        "GLO": {"generator": generator},
        "ours, vector": {"generator": generator, "optimizer": MUON if muon else decayed, **ours},
        "ours, spatial": {"generator": spatial, "optimizer": MUON, **rows, **ours},
    }
    return GLO(data.num_images, n_pca=N_PCA, **sizes, **arguments[kind] | changes), data


class Comparison:
    """Held-out images and their features, which all rows of a set of images are compared with."""

    def __init__(self, data: LSUNDataModule, options: argparse.Namespace, digits: bool):
        self.options = options
        images, _ = data.dataset[data.holdout_rows(options.samples)]
        self.training, _ = data.dataset[range(min(MAX_CODES, data.num_images))]
        self.held_out = images[: options.num]
        self.networks = {"": load_features(options.features)}
        if digits:
            labels = data.attributes.table[: len(self.training), 0]  # type: ignore[union-attr]
            self.networks["digits' "] = train_features(self.training, labels)[0]
        self.real = {key: self.extract(images, network) for key, network in self.networks.items()}

    def extract(self, images: Tensor, network: nn.Module) -> Tensor:
        with torch.autocast("cpu", enabled=self.options.precision == "bf16-mixed"):
            return extract(images, network)

    def distances(self, kind: str, images: Tensor, covered: bool = False) -> dict[str, float]:
        """Compare images, uint8, with the held-out ones, by each network's features."""
        measured = {}
        for key, network in self.networks.items():
            features = self.extract(images, network)
            measured[f"{key}{kind}"] = frechet(features, self.real[key])
            if covered:
                found = precision_and_recall(features, self.real[key])
                measured |= {f"{key}{name}": value for name, value in found.items()}
        return measured


@torch.no_grad()
def encoded(model: Autoencoder, images: Tensor) -> Tensor:
    """What the encoder makes of images, uint8."""
    return torch.cat([model.encoder(from_uint8(batch)) for batch in images.split(128)])


def measure_model(model: GLO | Autoencoder, compared: Comparison) -> tuple[Tensor, dict[str, float]]:
    """The codes (N, D) of the first training images, and the measures that all rows of a model share."""
    held_out, num = from_uint8(compared.held_out), compared.options.samples
    if isinstance(model, Autoencoder):
        codes, reached = (model.codes(encoded(model, part)) for part in (compared.training, compared.held_out))
    else:
        codes = model.latents.weight.detach()[:MAX_CODES]
        reached = model.encode(held_out, compared.training[:N_PCA], ("pca", "mean"), steps=compared.options.steps)
    reconstructed = quality(generate(model, reached), held_out, LaplacianLoss())
    nearest = NearestNeighbors(n_neighbors=1).fit(codes[:num].numpy()).kneighbors()[1][:, 0]
    middles = model.project((codes[:num] + codes[torch.from_numpy(nearest)]) / 2)
    return codes, {
        "decoder's weights, millions": sum(weight.numel() for weight in model.generator.parameters()) / 1e6,
        "PSNR, dB": reconstructed["psnr"],
        "SSIM": reconstructed["ssim"],
        **compared.distances("Frechet of reconstructions", to_uint8(generate(model, codes[:num]))),
        **compared.distances("iFID", to_uint8(generate(model, middles))),  # as evaluate.py has it
    }


def fit_within(seconds: float, make: Callable[..., Any], codes: Tensor, trial: int = 30, **options: Any) -> Prior:
    """Fit a prior with as many steps as take these processor seconds, by a trial of so many."""
    began = time.process_time()
    make(trial).fit(codes, **options)
    taken = (time.process_time() - began) / torch.get_num_threads()
    prior = make(max(1, round(trial * seconds / taken)))
    prior.fit(codes, **options)
    return prior


def measure_samples(row: Row, model: GLO | Autoencoder, codes: Tensor, compared: Comparison, seed: int) -> dict:
    """Fit the row's prior and measure its samples."""
    options = compared.options
    if isinstance(model, VAE) and row.prior is SecondVAE:  # its first stage's distributions, not their means alone
        mean, log_variance = encoded(model, compared.training).chunk(2, dim=1)
        codes = torch.cat([draw(mean, log_variance) for _ in range(4)])
    began = time.process_time()
    if row.is_learned:
        places = {"side": code_side(model.generator)} if row.prior is Flow else {}
        prior = fit_within(options.prior_seconds, row.prior, codes, **places)
    else:
        prior = row.prior().fit(codes)
    seconds = (time.process_time() - began) / torch.get_num_threads()
    samples = to_uint8(generate(model, sample_codes(prior, codes, options.samples, model.project, seed)))
    return {**compared.distances("Frechet of samples", samples, covered=True), "prior, s": seconds}


def measure_set(data_name: str, seed: int, results: Results, options: argparse.Namespace) -> None:
    """Train the models of the rows that miss this seed, and measure these rows."""
    name, data = Path(data_name).name, datamodule(data_name, seed)
    missing = [row for row in options.only if len(results.runs.get(f"{name}: {row}", [])) <= seed]
    if not missing:
        return
    compared = Comparison(data, options, digits=name == "mnist")
    if f"{name}: {FLOOR}" not in results.runs:
        measured = compared.distances("Frechet of samples", compared.training[: options.samples], covered=True)
        results.add(f"{name}: {FLOOR}", measured)
    for model_name in dict.fromkeys(ROWS[row].model for row in missing):
        key, recipe = f"{name}: {model_name}", functools.partial(make, model_name, data_name)
        trial = functools.partial(recipe, init="random")  # needs no PCA
        results.measure_steps(options.seconds, {key: trial}, options.precision, "cpu")
        steps = results.steps[key]
        model, data, _ = train(recipe, seed, options.precision, "cpu", max_steps=steps, max_epochs=-1)
        codes, shared = measure_model(model, compared)
        shared = {"epochs": steps / math.ceil(data.num_images / BATCH), **shared}
        for row in missing:
            if ROWS[row].model == model_name:
                measured = shared | measure_samples(ROWS[row], model, codes, compared, seed)
                results.add(f"{name}: {row}", measured)
                print(f"{name}, seed {seed}, {row}:", {k: round(v, 3) for k, v in measured.items()}, flush=True)


def _set(text: str) -> str:
    if Path(text).name not in SETS:
        raise argparse.ArgumentTypeError(f"{text} is none of the sets. Give {', '.join(SETS)}, or a folder so called")
    return text


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("data", nargs="+", type=_set, help=f"{', '.join(SETS)}; the last three are folders")
    parser.add_repeat_arguments()
    parser.add_argument("--seconds", type=float, default=60, help="processor seconds of a training")
    parser.add_argument("--prior_seconds", type=float, default=30, help="processor seconds of a learned prior")
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=ROWS, help="rows")
    parser.add_argument("--samples", type=int, default=2000, help="images in a distance, of each kind at most")
    parser.add_argument("--num", type=int, default=100, help="held-out images whose PSNR is measured")
    parser.add_argument("--steps", type=int, default=60, help="steps of descent for a held-out image")
    parser.add_argument("--features", default="efficientnet", help="as evaluate.py --features")
    options = parser.parse_args()
    silence()
    results = Results(options.json)
    for seed in range(options.seeds):
        for name in options.data:
            measure_set(name, seed, results, options)
    for name in (Path(text).name for text in options.data):
        keys = {f"{name}: {row}": row for row in (*options.only, FLOOR)}
        table = results.table(f"{name}, {options.seconds:g} seconds each", list(keys))
        print(table.replace(f"| {name}: ", "| "), end="\n\n")


if __name__ == "__main__":
    main()
