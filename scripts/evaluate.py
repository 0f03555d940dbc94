"""Measures a run on images it has seen and on held-out ones: python scripts/evaluate.py RUN [--json FILE]

Training images are reconstructed from their rows, and encoded anew in the very same way as the held-out images (train
with --data.holdout): only these two compare. PCA of as many dimensions stands beside them. --features compares samples
from the codes' Gaussian with real images. scripts/studies/baselines.py trains other models beside the run.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from PIL import Image
from torch import Tensor

from glo_lightning.encoding import STARTS
from glo_lightning.errors import InputError, check_at_least
from glo_lightning.explore.commands import CommandParser, named_writing, refuse_to_overwrite
from glo_lightning.explore.evaluation import (
    feature_metrics,
    generate,
    load_features,
    neighbours_kept,
    pca_reconstructions,
    quality,
)
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.priors import Gaussian, sample_codes
from glo_lightning.explore.trained_run import TrainedRun, load_run
from glo_lightning.files import write_text, write_whole
from glo_lightning.images import from_uint8, to_uint8
from glo_lightning.losses import make_loss

MOST = 4096  # images looked at
SHOWN = 10  # in the picture
TITLES = {
    "train": "training images, as trained",
    "train_encoded": "training images, encoded anew",
    "holdout": "held-out images, encoded",
    "pca_train": "training images, PCA",
    "pca_holdout": "held-out images, PCA",
}


def measure(trained: TrainedRun, options: argparse.Namespace) -> tuple[dict[str, Any], Image.Image]:
    """The quality of each kind of reconstruction and what became of the codes; a picture of some of them."""
    model, data = trained.model, trained.data
    training = trained.images(range(max(model.n_pca, MOST)))
    holdout, _ = data.dataset[data.holdout_rows(options.num)] if data.holdout else (training[:0], None)
    seen = training[: len(holdout) or options.num]
    table, latent_dim = model.latents.weight, model.latents.weight.shape[1]
    loss = make_loss(options.loss, model.hparams["image_size"]).to(model.device) if options.loss else None
    results: dict[str, Any] = {}

    def add(name: str, generated: Tensor, images: Tensor) -> None:
        wanted = from_uint8(images.to(generated.device))
        results[name] = quality(generated, wanted, model.loss) | {"images": len(images)}

    add("train", generate(model, table[: len(seen)]), seen)
    for encoded, by_pca, images in (("train_encoded", "pca_train", seen), ("holdout", "pca_holdout", holdout)):
        if len(images):
            codes = trained.encode(images, options.starts, loss=loss, steps=options.steps, progress=True)
            reconstructions = generate(model, codes)
            projected = pca_reconstructions(training[: model.n_pca], images, latent_dim).to(model.device)
            add(encoded, reconstructions, images)
            add(by_pca, projected, images)
            shown = (images, reconstructions, projected)
    every = training[:MOST]
    add("train_all", generate(model, table[: len(every)]), every)
    if trained.initial is not None and len(trained.initial) > 1:
        now = table[: len(trained.initial)].cpu()
        moved = float((now - trained.initial).norm(dim=1).mean())
        results["latents"] = {"moved": moved, "neighbours_kept": neighbours_kept(trained.initial, now)}
    kind = "held-out" if len(holdout) else "training"
    captions = [f"{kind} image", "encoded", "PCA"]
    return results, picture([list(part[:SHOWN]) for part in shown], captions=captions)


def compare_samples(trained: TrainedRun, name: str) -> dict[str, Any]:
    """Distances to training images of samples from the codes' Gaussian, of reconstructions, and of held-out images."""
    model, data, features = trained.model, trained.data, load_features(name)
    training = trained.images(range(MOST))
    codes = model.latents.weight[: len(training)].cpu()
    drawn = sample_codes(Gaussian().fit(codes), codes, len(codes), model.project)
    parts = {
        "samples": to_uint8(generate(model, drawn.to(model.device))).cpu(),
        "reconstructions": to_uint8(generate(model, codes.to(model.device))).cpu(),
    }
    if data.holdout:
        parts["holdout"] = data.dataset[data.holdout_rows(MOST)][0]
    return {part: feature_metrics(images, training, features) for part, images in parts.items()}


def report(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Prints the tables."""
    print("| | images | PSNR, dB | SSIM | loss |\n|---|---|---|---|---|")
    for name, title in {**TITLES, "train_all": "all training images, as trained"}.items():
        if name in results:
            r = results[name]
            print(f"| {title} | {r['images']} | {r['psnr']:.2f} | {r['ssim']:.3f} | {r['loss']:.4f} |")
    starts = ", ".join(options.starts)
    steps = f"the best one goes on for at most {options.steps} steps of Adam on {options.loss or 'the loss of the run'}"
    print(f"\nencoded: starts {starts}; {steps}")
    if "latents" in results:
        latents = results["latents"]
        kept = f"of 10 nearest neighbours {latents['neighbours_kept']:.0%} are the same"
        print(f"the codes moved {latents['moved']:.3f} from their start; {kept}")
    if "features" in results:
        print(f"\n| {options.features} | Frechet | kernel | precision | recall |\n|---|---|---|---|---|")
        for name, r in results["features"].items():
            print(f"| {name} | {r['frechet']:.3f} | {r['kernel']:.5f} | {r['precision']:.2f} | {r['recall']:.2f} |")


def main() -> None:
    parser = CommandParser(__doc__, output="evaluation.json", writes="the JSON file that it writes", flag="--json")
    parser.add_argument("--num", type=int, default=128, help="images of each kind, at most")
    parser.add_argument("--starts", nargs="+", default=["pca", "mean", "random"], choices=STARTS)
    parser.add_argument("--steps", type=int, default=150, help="of encoding")
    parser.add_argument("--loss", help="of encoding: lap_l1, l2 or the path of a class; the run's if not given")
    parser.add_argument("--features", help="inception, a TorchScript file or the path of a class")
    parser.add_argument("--baselines", action="store_true", help=argparse.SUPPRESS)
    parser.call(lambda: run(parser.parse_args()))


def run(options: argparse.Namespace) -> None:
    if options.baselines:
        remedy = "is a command of its own now: python scripts/studies/baselines.py"
        raise InputError("baselines", options.run, remedy)
    check_at_least("num", options.num, 2)
    check_at_least("steps", options.steps, 1)
    if options.features:
        load_features(options.features)
    if options.loss:
        make_loss(options.loss)
    pictured = options.output.with_suffix(".png")
    refuse_to_overwrite(pictured, "json", options.overwrite)
    trained = load_run(options.run, options.accelerator)
    results, shown = measure(trained, options)
    if options.features:
        results["features"] = compare_samples(trained, options.features)
    report(results, options)
    with named_writing("json", options.output):
        write_text(options.output.absolute(), json.dumps(results, indent=1))
        write_whole(pictured.absolute(), lambda file: shown.save(file, "PNG"))
    print(f"wrote {options.output} and {pictured}")


if __name__ == "__main__":
    main()
