"""Measures a run on images it has seen and on held-out ones: python scripts/evaluate.py RUN [--json FILE] [--baselines]

Training images are reconstructed from their rows, and encoded anew in the very same way as the held-out images (train
with --data.holdout): only these two compare. PCA of as many dimensions stands beside them. --baselines trains the run's
recipe, the same generator on frozen codes, an autoencoder and a variational one, at equal seconds with 3 seeds; what it
has trained is kept beside the run. --features compares samples from the codes' Gaussian with real images.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from glo_lightning.baselines import Autoencoder, Make, steps_within, train
from glo_lightning.commands import CommandParser, TrainedRun, refuse_to_overwrite
from glo_lightning.data import LSUNDataModule, to_unit_range
from glo_lightning.encoding import STARTS, encode, starting_codes
from glo_lightning.errors import check_at_least
from glo_lightning.evaluation import (
    as_bytes,
    distances,
    generate,
    load_features,
    neighbours_kept,
    pca_reconstructions,
    quality,
)
from glo_lightning.losses import make_loss
from glo_lightning.module import GLO
from glo_lightning.pictures import picture
from glo_lightning.priors import Gaussian, sample_codes
from glo_lightning.run_folder import write_atomically

MOST = 4096  # images looked at
SHOWN = 10  # in the picture
TITLES = {
    "train": "training images, as trained",
    "train_encoded": "training images, encoded anew",
    "holdout": "held-out images, encoded",
    "pca_train": "training images, PCA",
    "pca_holdout": "held-out images, PCA",
}


def encode_anew(model: GLO, training: Tensor, images: Tensor, options: argparse.Namespace) -> Tensor:
    """Reconstructions of uint8 images, whose codes are sought with the generator as it is."""
    wanted = to_unit_range(images.to(model.device))
    starts = starting_codes(model, training, wanted, options.starts)
    loss = options.loss and make_loss(options.loss, model.hparams["image_size"])
    return generate(model, encode(model, wanted, starts, steps=options.steps, progress=True, loss=loss))


def measure(model: GLO, data: LSUNDataModule, options: argparse.Namespace) -> tuple[dict[str, Any], Image.Image]:
    """The quality of each kind of reconstruction and what became of the codes; a picture of some of them."""
    training, _ = data.dataset[list(range(min(data.num_images, max(model.n_pca, MOST))))]
    held_out, _ = data.dataset[data.holdout_rows(options.num)] if data.holdout else (training[:0], None)
    seen = training[: len(held_out) or options.num]
    table, latent_dim = model.latents.weight, model.latents.weight.shape[1]
    results: dict[str, Any] = {}

    def add(name: str, fakes: Tensor, images: Tensor) -> None:
        images = to_unit_range(images.to(fakes.device))
        results[name] = quality(fakes, images, model.loss) | {"images": len(images)}

    add("train", generate(model, table[: len(seen)]), seen)
    for encoded, by_pca, images in (("train_encoded", "pca_train", seen), ("holdout", "pca_holdout", held_out)):
        if len(images):
            fakes = encode_anew(model, training, images, options)
            projected = pca_reconstructions(training[: model.n_pca], images, latent_dim).to(model.device)
            add(encoded, fakes, images)
            add(by_pca, projected, images)
            shown = (images, fakes, projected)
    every = training[:MOST]
    add("train_all", generate(model, table[: len(every)]), every)
    start, now = model.start.cpu(), table[: len(model.start)].cpu()
    if len(start) > 1:
        moved = float((now - start).norm(dim=1).mean())
        results["latents"] = {"moved": moved, "neighbours_kept": neighbours_kept(start, now)}
    kind = "held-out" if len(held_out) else "training"
    captions = [f"{kind} image", "encoded", "PCA"]
    return results, picture([list(part[:SHOWN]) for part in shown], captions=captions)


def compare_samples(model: GLO, data: LSUNDataModule, options: argparse.Namespace) -> dict[str, Any]:
    """Distances to training images of samples from the codes' Gaussian, of reconstructions, and of held-out images."""
    features = load_features(options.features)
    training, _ = data.dataset[list(range(min(data.num_images, MOST)))]
    codes = model.latents.weight[: len(training)].cpu()
    drawn = sample_codes(Gaussian().fit(codes), codes, len(codes), model.project)
    parts = {
        "samples": as_bytes(generate(model, drawn.to(model.device))),
        "reconstructions": as_bytes(generate(model, codes.to(model.device))),
    }
    if data.holdout:
        parts["holdout"] = data.dataset[data.holdout_rows(MOST)][0]
    return {name: distances(part, training, features) for name, part in parts.items()}


# ------------------------------------------------------------------------------------------------------- the baselines


def makers(model: GLO, data: LSUNDataModule, arguments: dict[str, Any]) -> dict[str, Make]:
    """What is compared: the run's recipe, its generator on codes that stay, and behind an encoder."""
    hparams = {key: value for key, value in model.hparams.items() if key not in ("num_images", "compile")}
    sizes = {key: hparams[key] for key in ("latent_dim", "image_size", "width")}

    def glo(**changes: Any) -> Make:
        return lambda seed: (GLO(data.num_images, **hparams | changes), LSUNDataModule(**arguments | {"seed": seed}))

    def autoencoder(variational: bool) -> Make:
        return lambda seed: (
            Autoencoder(**sizes, loss=copy.deepcopy(model.loss).train(), variational=variational),
            LSUNDataModule(**arguments | {"seed": seed}),
        )

    return {
        "GLO, the run's recipe": glo(),
        "the generator on frozen PCA codes": glo(init="pca", latent_lr=0),
        "the generator on frozen random codes": glo(init="random", latent_lr=0),
        "autoencoder": autoencoder(variational=False),
        "variational autoencoder": autoencoder(variational=True),
    }


def measure_baselines(trained: TrainedRun, options: argparse.Namespace) -> dict[str, Any]:
    """Trains the baselines, or those of them that are not in the file beside the run."""
    data, model = trained.data, trained.model
    cache = (trained.folder or options.run.parent) / f"baselines_{options.seconds:g}s.json"
    results: dict[str, Any] = json.loads(cache.read_text()) if cache.exists() else {}
    makes = makers(model, data, trained.config["data"])
    precision = options.precision or trained.config["trainer"]["precision"] or "32-true"
    logging.getLogger("glo_lightning").setLevel(logging.WARNING)  # not how each of them starts
    if any(len(results.get(name, {}).get("runs", [])) < options.seeds for name in makes):
        accelerator = model.device.type if model.device.type == "cpu" else "gpu"
        lengths = steps_within(options.seconds, makes, precision, accelerator)
        for name, make in makes.items():
            epochs = lengths[name] / len(data.train_dataloader())
            entry = results.setdefault(name, {"steps": lengths[name], "epochs": epochs, "runs": []})
            for seed in range(len(entry["runs"]), options.seeds):
                other, _, _ = train(make, seed, precision, accelerator, max_steps=entry["steps"], max_epochs=-1)
                entry["runs"].append(measure_baseline(other.to(model.device), data, model.loss, options))
                cache.write_text(json.dumps(results, indent=1))
    return results


def measure_baseline(model: Any, data: LSUNDataModule, loss: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The quality on training images, as trained, and on held-out ones, encoded."""
    training, _ = data.dataset[list(range(min(data.num_images, MOST)))]
    parts = {"train": training}
    if data.holdout:
        parts["holdout"] = data.dataset[data.holdout_rows(options.num)][0]
    results = {}
    for name, part in parts.items():
        images = to_unit_range(part.to(model.device))
        if isinstance(model, Autoencoder):
            with torch.no_grad():
                fakes = torch.cat([model(model.encode(some)) for some in images.split(128)])
        elif name == "train":
            fakes = generate(model, model.latents.weight[: len(images)])
        else:
            fakes = encode_anew(model, training, part, options)
        results[name] = quality(fakes, images, loss)
    return results


# --------------------------------------------------------------------------------------------------------- the command


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
    if "baselines" in results:
        head = f"{options.seconds:g} seconds each | epochs | training PSNR, dB | SSIM | held-out PSNR, dB | SSIM"
        print(f"\n| {head} |\n|---|---|---|---|---|---|")
        for name, entry in results["baselines"].items():
            cells = []
            for part in ("train", "holdout"):
                for key, digits in (("psnr", 2), ("ssim", 3)):
                    values = [run[part][key] for run in entry["runs"] if part in run]
                    spread = f" ± {statistics.pstdev(values):.{digits}f}" if values else "-"
                    cells.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "-")
            print(f"| {name} | {entry['epochs']:.1f} | {' | '.join(cells)} |")


def main() -> None:
    parser = CommandParser(__doc__, output="evaluation.json", writes="the JSON file that it writes", flag="--json")
    parser.add_argument("--num", type=int, default=128, help="images of each kind, at most")
    parser.add_argument("--starts", nargs="+", default=["pca", "mean", "random"], choices=STARTS)
    parser.add_argument("--steps", type=int, default=150, help="of encoding")
    parser.add_argument("--loss", help="of encoding: lap_l1, l2 or the path of a class; the run's if not given")
    parser.add_argument("--features", help="inception, a TorchScript file or the path of a class")
    parser.add_argument("--baselines", action="store_true", help="trains and compares them")
    parser.add_argument("--seconds", type=float, default=60, help="of training, for each baseline and seed")
    parser.add_argument("--seeds", type=int, default=3, help="of each baseline")
    parser.add_argument("--precision", help="of the baselines' training; the run's if not given")
    parser.call(lambda: run(parser.parse_args()))


def run(options: argparse.Namespace) -> None:
    check_at_least("num", options.num, 2)
    check_at_least("steps", options.steps, 1)
    if options.features:
        load_features(options.features)
    if options.loss:
        make_loss(options.loss)
    pictured = options.output.with_suffix(".png")
    refuse_to_overwrite(pictured, "json", options.overwrite)
    trained = TrainedRun(options.run, options.accelerator)
    results, shown = measure(trained.model, trained.data, options)
    if options.features:
        results["features"] = compare_samples(trained.model, trained.data, options)
    if options.baselines:
        results["baselines"] = measure_baselines(trained, options)
    report(results, options)
    write_atomically(options.output, lambda file: file.write(json.dumps(results, indent=1).encode()))
    write_atomically(pictured, lambda file: shown.save(file, "PNG"))
    print(f"wrote {options.output} and {pictured}")


if __name__ == "__main__":
    main()
