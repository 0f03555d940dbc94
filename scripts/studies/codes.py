"""Does learning the codes pay? python scripts/study_codes.py --json FILE [--root DIR] [--num_samples N] [--epochs 10]

Trains small GLOs (width 32, batch 32, cosine, whitened PCA start) for every way of learning the codes, start and number
of dimensions, each with several seeds, and prints the PSNR of all training images as trained, and of held-out images
encoded with the generator as it is, both with the standard deviation over seeds. What stands in the JSON file is not
trained again, so a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from glo_lightning.baselines import train
from glo_lightning.evaluation import generate, pca_reconstructions
from torchmetrics.image import PeakSignalNoiseRatio

from glo_lightning.data import LSUNDataModule, to_unit_range
from glo_lightning.encoding import encode, starting_codes
from glo_lightning.module import GLO

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "pca": {
        "frozen": {"latent_lr": 0},
        "learned from the start": {"latent_lr": 10 / 128},
        "learned faster": {"latent_lr": 0.3},
        "learned late": {"latent_lr": 1e-2, "latent_optimizer": "adam", "latent_from": 0.6},
        "row-wise Adam": {"latent_lr": 1e-2, "latent_optimizer": "adam"},
        "whitened steps": {"latent_lr": 0.05, "latent_optimizer": "whitened"},
    },
    "random": {
        "frozen": {"latent_lr": 0},
        "learned from the start": {"latent_lr": 4.0},
        "learned late": {"latent_lr": 0.1, "latent_optimizer": "adam", "latent_from": 0.6},
        "row-wise Adam": {"latent_lr": 0.1, "latent_optimizer": "adam"},
        "whitened steps": {"latent_lr": 1.0, "latent_optimizer": "whitened"},
    },
}


def psnr(fakes: torch.Tensor, images: torch.Tensor) -> float:
    metric = PeakSignalNoiseRatio(data_range=1.0)
    return float(metric(fakes / 2 + 0.5, images / 2 + 0.5))


def measure(
    options: argparse.Namespace, way: dict[str, Any], start: str, latent_dim: int, seed: int
) -> dict[str, float]:
    """Trains one GLO; its PSNR on training and held-out images, and how far its codes moved."""

    def make(seed: int) -> tuple[GLO, LSUNDataModule]:
        data = datamodule(options, seed)
        sizes = {"latent_dim": latent_dim, "image_size": options.image_size, "width": options.width}
        return GLO(data.num_images, **sizes, init=start, whiten=True, schedule="cosine", **way), data

    model, data, _ = train(make, seed, options.precision, "cpu", max_epochs=options.epochs)
    training, _ = data.dataset[list(range(data.num_images))]
    held_out = to_unit_range(data.dataset[data.holdout_rows(options.holdout)][0])
    starts = starting_codes(model, training, held_out, ["pca" if start == "pca" else "mean"])
    codes = encode(model, held_out, starts, steps=options.encode_steps)
    table = model.latents.weight
    return {
        "train": psnr(generate(model, table), to_unit_range(training)),
        "holdout": psnr(generate(model, codes), held_out),
        "moved": float((table[: len(model.start)] - model.start).norm(dim=1).mean()),
    }


def datamodule(options: argparse.Namespace, seed: int) -> LSUNDataModule:
    sizes = {"holdout": options.holdout, "image_size": options.image_size, "batch_size": 32}
    return LSUNDataModule(options.root, options.num_samples, **sizes, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="results, read and written")
    parser.add_argument("--root", help="an LMDB; the shipped images if not given")
    parser.add_argument("--num_samples", type=int, help="all if not given")
    parser.add_argument("--holdout", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--encode_steps", type=int, default=60)
    parser.add_argument("--dims", type=int, nargs="+", default=[16, 32, 100])
    parser.add_argument("--starts", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS["pca"]), choices=list(WAYS["pca"]), metavar="WAY")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="bf16-mixed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    results = json.loads(options.json.read_text()) if options.json.exists() else {}
    asked = [(start, way) for start in options.starts for way in WAYS[start] if way in options.ways]
    todo = [
        (seed, latent_dim, start, way)
        for seed in range(options.seeds)
        for latent_dim in options.dims
        for start, way in asked
    ]
    for seed, latent_dim, start, way in todo:
        runs = results.setdefault(f"{start} {latent_dim} {way}", [])
        if len(runs) <= seed:
            runs.append(measure(options, WAYS[start][way], start, latent_dim, seed))
            options.json.write_text(json.dumps(results, indent=1))

    data = datamodule(options, 0)
    training, held_out = (
        data.dataset[rows][0] for rows in (list(range(data.num_images)), data.holdout_rows(options.holdout))
    )
    heads = "".join(f" D = {latent_dim}: training | held-out |" for latent_dim in options.dims)
    print(f"| start | codes, rate |{heads}\n|---|---|{'---|---|' * len(options.dims)}")
    cells = [
        f" {psnr(pca_reconstructions(training, part, latent_dim), to_unit_range(part)):.2f} |"
        for latent_dim in options.dims
        for part in (training, held_out)
    ]
    print(f"| PCA itself | |{''.join(cells)}")
    for start, way in asked:
        runs = [results[f"{start} {latent_dim} {way}"] for latent_dim in options.dims]
        values = [[run[key] for run in some] for some in runs for key in ("train", "holdout")]
        cells = [f" {statistics.mean(value):.2f} ± {statistics.pstdev(value):.2f} |" for value in values]
        rate = "" if way == "frozen" else f", {WAYS[start][way]['latent_lr']:.2g}"
        print(f"| {start} | {way}{rate} |{''.join(cells)}")


if __name__ == "__main__":
    main()
