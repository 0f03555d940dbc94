"""Does learning the codes pay? python scripts/studies/codes/codes.py --json FILE [--root DIR] [--num_samples N]

Trains small GLOs for every init, rate of the codes and number of dimensions, each with several seeds. Prints the PSNR
of all training images as trained, and of held-out images, which are encoded by descent.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Results, StudyParser, datamodule, markdown, mean_and_deviation, silence, train

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.codes import generate
from glo_lightning.generator import Generator
from glo_lightning.images import from_uint8, psnr
from glo_lightning.module import GLO
from glo_lightning.optimizers import WhitenedRows
from glo_lightning.pca import fit_pca

CODES: dict[str, dict[str, Any]] = {
    "pca, frozen": {"latent_lr": 0},
    "pca, SGD 0.078": {"latent_lr": 10 / 128},
    "pca, SGD 0.3": {"latent_lr": 0.3},
    "pca, whitened steps 0.05": {"latent_lr": 0.05, "latent_optimizer": WhitenedRows},
    "random, frozen": {"latent_lr": 0},
    "random, SGD 4": {"latent_lr": 4.0},
    "random, whitened steps 1": {"latent_lr": 1.0, "latent_optimizer": WhitenedRows},
}


def measure(options: argparse.Namespace, name: str, latent_dim: int, seed: int) -> dict[str, float]:
    """Train one GLO and return its PSNR on training and held-out images."""
    init = name.split(",")[0]

    def build(seed: int) -> tuple[GLO, LSUNDataModule]:
        data = datamodule(options, seed)
        parts = {"generator": partial(Generator, width=options.width), **CODES[name]}
        sizes = {"latent_dim": latent_dim, "image_size": options.image_size}
        arguments: dict[str, Any] = {**sizes, **parts, "init": init, "whiten": True, "schedule": "cosine"}
        return GLO(data.num_images, **arguments), data

    model, data, _ = train(build, seed, options.precision, "cpu", max_epochs=options.epochs)
    training, held_out = split(data, options.holdout)
    starts = ["pca" if init == "pca" else "mean"]
    codes = model.encode(from_uint8(held_out), training, starts, steps=options.encode_steps)
    pairs = {"training": (model.latents.weight, training), "held-out": (codes, held_out)}
    return {part: float(psnr(generate(model, codes), from_uint8(images))) for part, (codes, images) in pairs.items()}


def split(data: LSUNDataModule, holdout: int) -> list[Any]:
    """Training and held-out images, uint8."""
    return [data.dataset[rows][0] for rows in (list(range(data.num_images)), data.holdout_rows(holdout))]


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_repeat_arguments()
    parser.add_data_arguments(holdout=128)
    parser.add_argument("--width", type=int, default=32, help="width of the generator")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of a training")
    parser.add_argument("--encode_steps", type=int, default=60, help="steps of descent for a held-out image")
    parser.add_argument("--dims", type=int, nargs="+", default=[16, 32, 100], help="numbers of dimensions")
    parser.add_argument("--only", nargs="+", default=list(CODES), choices=list(CODES), metavar="ROW", help="rows")
    options = parser.parse_args()
    silence()
    results = Results(options.json)
    rows = {f"{name}, D = {dim}": (name, dim) for dim in options.dims for name in options.only}
    for row, seed in results.missing(list(rows), options.seeds):
        results.add(row, measure(options, *rows[row], seed))
    table: dict[str, dict[str, str]] = {name: {} for name in ("PCA itself", *options.only)}
    training, held_out = split(datamodule(options, 0), options.holdout)
    for dim in options.dims:
        for part, images in (("training", training), ("held-out", held_out)):
            column = f"D = {dim}: {part}"
            reached = float(psnr(fit_pca(training, dim).reconstruct(from_uint8(images)), from_uint8(images)))
            table["PCA itself"][column] = f"{reached:.2f}"
            for name in options.only:
                table[name][column] = mean_and_deviation([run[part] for run in results.runs[f"{name}, D = {dim}"]])
    print(markdown("init, steps of the codes", table))


if __name__ == "__main__":
    main()
