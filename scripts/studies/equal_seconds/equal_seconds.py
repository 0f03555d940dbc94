"""Which generator, loss or way to learn codes is best in equal seconds? equal_seconds.py WHAT --json FILE [--root DIR]

Trains each variant for the same processor seconds at each of five rates: two of SGD, two of AdamW, one of Muon. The
widths of the generators are such that a step costs about the same. Prints PSNR and SSIM of training and of held-out
images, and, with --features, Frechet distances to the training images: of reconstructions, of the flow's samples and of
images half-way between two codes. Another generator or loss is one line in VARIANTS.

--seeds 0 measures how many steps fit into the seconds and trains nothing: with its file another machine, or a GPU,
trains as many steps.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from glo_lightning.generator import Generator, SkipGenerator, SpatialGenerator
from glo_lightning.optimizers import WhitenedRows

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import BATCH, MUON, Results, StudyParser, datamodule, silence, train

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.codes import generate
from glo_lightning.explore.features import extract, load_features
from glo_lightning.explore.flows import flow_path
from glo_lightning.explore.metrics import frechet, quality
from glo_lightning.images import from_uint8, to_uint8
from glo_lightning.losses import LaplacianLoss
from glo_lightning.module import GLO
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import sample_codes

PYRAMID_AND_L2 = partial(LaplacianLoss, l2_weight=1.0)
BASE: dict[str, Any] = {"whiten": True, "schedule": "cosine", "loss": PYRAMID_AND_L2}
BASE |= {"generator": partial(Generator, width=32)}
LEARNED = {"latent_optimizer": WhitenedRows, "latent_lr": 0.02}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {  # arguments of GLO
    "generators": {
        "DCGAN": {},
        "skips from the code": {"generator": partial(SkipGenerator, width=24)},
        "skips, code_scale 2": {"generator": partial(SkipGenerator, width=24, code_scale=2.0)},
        "codes with places": {"generator": SpatialGenerator, **LEARNED},
        "codes with places, no blocks": {"generator": partial(SpatialGenerator, blocks=0), **LEARNED},
    },
    "losses": {
        "pyramid": {"loss": LaplacianLoss},
        "pyramid and L2": {},
        "pixels, L1 and L2": {"loss": partial(LaplacianLoss, levels=0, l2_weight=1.0)},
        "pixels, L2": {"loss": nn.MSELoss},
    },
    "codes": {
        "frozen": {"latent_lr": 0.0},
        "SGD": {},
        "whitened": {"latent_optimizer": WhitenedRows, "latent_lr": 0.05},
    },
}
RATES: dict[str, dict[str, Any]] = {
    "SGD 1": {"optimizer": partial(SGD, lr=1.0, weight_decay=1e-3)},
    "SGD 3": {"optimizer": partial(SGD, lr=3.0, weight_decay=1e-3)},
    "AdamW 0.001": {"optimizer": partial(AdamW, lr=0.001, betas=(0.9, 0.99), weight_decay=0.01)},
    "AdamW 0.003": {"optimizer": partial(AdamW, lr=0.003, betas=(0.9, 0.99), weight_decay=0.01)},
    "Muon 0.01": {"optimizer": MUON},
}
ROWS = {
    what: {f"{name}, {rate}": {**variant, **RATES[rate]} for name, variant in variants.items() for rate in RATES}
    for what, variants in VARIANTS.items()
}
MAX_PAIRS = 4096  # largest number of pairs with an image half-way


def build(options: argparse.Namespace, row: str, seed: int) -> tuple[GLO, LSUNDataModule]:
    data = datamodule(options, seed)
    shape = {"image_size": options.image_size, "channels": data.num_channels}
    return GLO(data.num_images, options.latent_dim, **{**BASE, **shape, **ROWS[options.what][row]}), data


def measure(
    options: argparse.Namespace, model: GLO, data: LSUNDataModule, features: nn.Module | None, steps: int
) -> dict[str, float]:
    """The measures of one run."""
    table, num = model.latents.weight, min(options.num, data.num_images)
    training = data.dataset[list(range(data.num_images))][0]
    held_out = from_uint8(data.dataset[data.holdout_rows(options.encoded)][0])
    codes = model.encode(held_out, training, ["pca"], steps=60)
    measures: dict[str, float] = {}
    parts = {"": (table[:512], from_uint8(training[:512])), "held-out ": (codes, held_out)}
    for part, (some, images) in parts.items():
        reached = quality(generate(model, some), images, model.loss)
        measures |= {f"{part}PSNR": reached["psnr"], f"{part}SSIM": reached["ssim"]}
    if features is not None:
        reference = extract(training, features)

        def distance(some: Tensor) -> float:
            return frechet(extract(to_uint8(generate(model, some)), features), reference)

        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
        measures["reconstructions"] = distance(table[order[:num]])
        if not options.no_flow:
            flow = Flow().fit(table)
            measures["samples"] = distance(sample_codes(flow, table, num, model.project))
            pairs = min(MAX_PAIRS, num)
            starts, ends = table[order[:pairs]], table[order[-pairs:].flip(0)]
            measures["half-way"] = distance(flow_path(flow)(starts, ends, 3, model.project)[1])
    weights = sum(parameter.numel() for parameter in model.generator.parameters())
    return measures | {"M weights": weights / 1e6, "images/s": BATCH * steps / options.seconds}


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("what", choices=list(VARIANTS), help="group of rows")
    parser.add_repeat_arguments()
    parser.add_data_arguments(holdout=512)
    parser.add_argument("--latent_dim", type=int, default=100, help="dimensions of a code")
    parser.add_argument("--seconds", type=float, default=300, help="processor seconds of a training")
    parser.add_argument("--features", help="feature network, as evaluate.py --features takes it")
    parser.add_argument("--no_flow", action="store_true", help="leave out samples and images half-way")
    parser.add_argument("--num", type=int, default=10_000, help="largest number of images in a distance")
    parser.add_argument("--encoded", type=int, default=100, help="largest number of held-out images")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows, such as 'DCGAN, SGD 1'; all if not given")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu", help="where to train")
    options = parser.parse_args()
    rows = options.only or list(ROWS[options.what])
    for row in rows:
        if row not in ROWS[options.what]:
            parser.error(f"--only {row}: no such row. Give some of {'; '.join(ROWS[options.what])}")
    silence()
    results = Results(options.json)
    recipes = {row: partial(build, options, row) for row in rows}
    results.measure_steps(options.seconds, recipes, options.precision, options.accelerator)
    features = load_features(options.features) if options.features else None
    for row, seed in results.missing(rows, options.seeds):
        length = {"max_steps": results.steps[row], "max_epochs": -1}
        model, data, _ = train(recipes[row], seed, options.precision, options.accelerator, **length)
        results.add(row, measure(options, model, data, features, results.steps[row]))
    print(results.table(options.what, rows))


if __name__ == "__main__":
    main()
