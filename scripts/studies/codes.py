"""Does learning the codes pay? python scripts/studies/codes.py --json FILE [--root DIR] [--num_samples N] [--epochs 10]

Trains small GLOs (width 32, batch 32, cosine, whitened PCA init) for every way of learning the codes, init and number
of dimensions, each with several seeds, and prints the PSNR of all training images as trained, and of held-out images
encoded with the generator as it is, both with the sample's standard deviation over seeds. What stands in the JSON file
is not trained again, so a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any

from harness import datamodule, mean_and_deviation, train
from rows import LateGLO

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.evaluation import generate, pca_reconstructions
from glo_lightning.files import write_text
from glo_lightning.images import from_uint8, psnr
from glo_lightning.module import GLO

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "pca": {
        "frozen": {"latent_lr": 0},
        "learned from the start": {"latent_lr": 10 / 128},
        "learned faster": {"latent_lr": 0.3},
        "learned late": {"latent_lr": 1e-2, "latent_optimizer": "rows.RowAdam", "latent_from": 0.6},
        "row-wise Adam": {"latent_lr": 1e-2, "latent_optimizer": "rows.RowAdam"},
        "whitened steps": {"latent_lr": 0.05, "latent_optimizer": "whitened"},
    },
    "random": {
        "frozen": {"latent_lr": 0},
        "learned from the start": {"latent_lr": 4.0},
        "learned late": {"latent_lr": 0.1, "latent_optimizer": "rows.RowAdam", "latent_from": 0.6},
        "row-wise Adam": {"latent_lr": 0.1, "latent_optimizer": "rows.RowAdam"},
        "whitened steps": {"latent_lr": 1.0, "latent_optimizer": "whitened"},
    },
}


def measure(
    options: argparse.Namespace, way: dict[str, Any], init: str, latent_dim: int, seed: int
) -> dict[str, float]:
    """Trains one GLO; its PSNR on training and held-out images."""

    def build(seed: int) -> tuple[GLO, LSUNDataModule]:
        data = datamodule(options, seed)
        sizes = {"latent_dim": latent_dim, "image_size": options.image_size, "width": options.width}
        arguments: dict[str, Any] = {**sizes, "init": init, "whiten": True, "schedule": "cosine", **way}
        return (LateGLO if "latent_from" in way else GLO)(data.num_images, **arguments), data

    model, data, _ = train(build, seed, options.precision, "cpu", max_epochs=options.epochs)
    training, _ = data.dataset[list(range(data.num_images))]
    holdout = from_uint8(data.dataset[data.holdout_rows(options.holdout)][0])
    codes = model.encode(holdout, training, ["pca" if init == "pca" else "mean"], steps=options.encode_steps)
    table = model.latents.weight
    return {
        "train": float(psnr(generate(model, table), from_uint8(training))),
        "holdout": float(psnr(generate(model, codes), holdout)),
    }


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
    parser.add_argument("--inits", "--starts", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS["pca"]), choices=list(WAYS["pca"]), metavar="WAY")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="bf16-mixed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    results = json.loads(options.json.read_text()) if options.json.exists() else {}
    asked = [(init, way) for init in options.inits for way in WAYS[init] if way in options.ways]
    todo = [
        (seed, latent_dim, init, way)
        for seed in range(options.seeds)
        for latent_dim in options.dims
        for init, way in asked
    ]
    for seed, latent_dim, init, way in todo:
        runs = results.setdefault(f"{init} {latent_dim} {way}", [])
        if len(runs) <= seed:
            runs.append(measure(options, WAYS[init][way], init, latent_dim, seed))
            write_text(options.json.absolute(), json.dumps(results, indent=1))

    data = datamodule(options, 0)
    training, holdout = (
        data.dataset[rows][0] for rows in (list(range(data.num_images)), data.holdout_rows(options.holdout))
    )
    heads = "".join(f" D = {latent_dim}: training | held-out |" for latent_dim in options.dims)
    print(f"| init | codes, rate |{heads}\n|---|---|{'---|---|' * len(options.dims)}")
    cells = [
        f" {psnr(pca_reconstructions(training, part, latent_dim), from_uint8(part)):.2f} |"
        for latent_dim in options.dims
        for part in (training, holdout)
    ]
    print(f"| PCA itself | |{''.join(cells)}")
    for init, way in asked:
        runs = [results[f"{init} {latent_dim} {way}"] for latent_dim in options.dims]
        values = [[run[key] for run in some] for some in runs for key in ("train", "holdout")]
        cells = [f" {mean_and_deviation(value, 2)} |" for value in values]
        rate = "" if way == "frozen" else f", {WAYS[init][way]['latent_lr']:.2g}"
        print(f"| {init} | {way}{rate} |{''.join(cells)}")


if __name__ == "__main__":
    main()
