"""Measures a run on images it has seen and on held-out ones: python scripts/evaluate.py RUN [--json FILE]

Training images are reconstructed from their rows, and encoded anew in the very same way as the held-out images (train
with --data.holdout): only these two compare. PCA of as many dimensions stands beside them. Where the images have
labels, held-out images that combine two values as no training image does stand by themselves, and linear probes and
nearest neighbours say what the codes tell of each label, beside PCA codes and pixels. --features compares samples of
the priors, and what lies on the ways between codes, with real images. scripts/studies/baselines trains other models
beside the run.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from glo_lightning.data import LSUNDataModule
from glo_lightning.encoding import STARTS
from glo_lightning.errors import check_at_least
from glo_lightning.explore.commands import CommandParser
from glo_lightning.explore.metrics import (
    extract,
    feature_metrics,
    generate,
    load_features,
    neighbours_kept,
    pca_reconstructions,
    quality,
)
from glo_lightning.explore.outputs import check_outputs, named_writing, write_png
from glo_lightning.explore.path_metrics import nearest_distance, probe, way_metrics
from glo_lightning.explore.paths import WAYS, Way
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun, load_run
from glo_lightning.files import write_json
from glo_lightning.images import from_uint8, to_uint8
from glo_lightning.latents import as_rows, fit_pca
from glo_lightning.losses import make_loss
from glo_lightning.priors.prior import default_prior, sample_codes

MOST = 4096  # images looked at
SHOWN = 10  # in the picture
TITLES = {
    "train": "training images, as trained",
    "train_encoded": "training images, encoded anew",
    "holdout": "held-out images, encoded",
    "holdout_new_pairs": "held-out, new pairs of attributes, encoded",
    "pca_train": "training images, PCA",
    "pca_holdout": "held-out images, PCA",
    "pca_holdout_new_pairs": "held-out, new pairs of attributes, PCA",
}
PROBES = {"probes": 0, "neighbours": 5}  # of the labels: a linear one, and the vote of so many neighbours
MOST_NUMBERS = 50_000_000  # in the table of pixels that a probe is fitted to
FEWEST_COMPARED = 100  # images whose features' distance says something


def measure(trained: TrainedRun, options: argparse.Namespace) -> tuple[dict[str, Any], Image.Image]:
    """The quality of each kind of reconstruction and what became of the codes; a picture of some of them."""
    model, data = trained.model, trained.data
    training = trained.images(range(max(model.n_pca, MOST)))
    rows = held_out_parts(data, options.num)
    parts = {name: data.dataset[some][0] for name, some in rows.items()}
    seen = training[: max(map(len, parts.values()), default=options.num)]
    table, latent_dim = model.latents.weight, model.latents.weight.shape[1]
    loss = make_loss(options.loss, model.hparams["image_size"]).to(model.device) if options.loss else None
    results: dict[str, Any] = {}

    def add(name: str, generated: Tensor, images: Tensor) -> None:
        wanted = from_uint8(images.to(generated.device))
        results[name] = quality(generated, wanted, model.loss) | {"images": len(images)}

    add("train", generate(model, table[: len(seen)]), seen)
    for name, images in {"train": seen, **parts}.items():
        # without an encoder, which was fitted to the training images: they and those held out would not compare
        how = {"steps": options.steps, "encoder": "none", "progress": True}
        codes = trained.encode(images, options.starts, loss=loss, **how)
        reconstructions = generate(model, codes)
        projected = pca_reconstructions(training[: model.n_pca], images, latent_dim).to(model.device)
        add("train_encoded" if name == "train" else name, reconstructions, images)
        add(f"pca_{name}", projected, images)
        if name != "holdout_new_pairs":
            shown = (images, reconstructions, projected)
        if name == "holdout" and data.attributes is not None:
            mean, axes = fit_pca(as_rows(training[: model.n_pca]), latent_dim)
            by_pca = [(as_rows(some) - mean) @ axes for some in (training[: len(table)], images)]
            asked, few = torch.tensor(rows["holdout"]), max(1, MOST_NUMBERS // mean.numel())
            kinds = {
                "codes": (table[: len(by_pca[0])].cpu(), codes.cpu()),
                "PCA codes": by_pca,
                "pixels": [as_rows(some) for some in (training[: len(by_pca[0])][:few], images)],
            }
            for title, neighbours in PROBES.items():
                results[title] = {
                    kind: {"images": len(known)} | probe(known, held_out, data.attributes, asked, neighbours)
                    for kind, (known, held_out) in kinds.items()
                }
    every = training[:MOST]
    add("train_all", generate(model, table[: len(every)]), every)
    if trained.initial is not None and len(trained.initial) > 1:
        now = table[: len(trained.initial)].cpu()
        moved = float((now - trained.initial).norm(dim=1).mean())
        results["latents"] = {"moved": moved, "neighbours_kept": neighbours_kept(trained.initial, now)}
    kind = "held-out" if parts else "training"
    captions = [f"{kind} image", "encoded", "PCA"]
    return results, picture([list(part[:SHOWN]) for part in shown], captions=captions)


def compare_samples(trained: TrainedRun, features: nn.Module) -> dict[str, Any]:
    """Distances to training images of samples of the priors, of reconstructions, and of held-out images."""
    model, data = trained.model, trained.data
    training = trained.images(range(MOST))
    real, table = extract(training, features), model.latents.weight
    num = len(training)

    def of_codes(codes: Tensor) -> Tensor:
        return extract(to_uint8(generate(model, codes)).cpu(), features)

    parts = {}
    for name in dict.fromkeys(("gaussian", default_prior(*table.shape))):
        parts[f"samples, {name}"] = of_codes(sample_codes(trained.prior(name), table, num, model.project))
    parts["reconstructions"] = of_codes(table[:num])
    for name, rows in held_out_parts(data, MOST).items():
        if len(rows) >= FEWEST_COMPARED:
            parts[name] = extract(data.dataset[rows][0], features)
    return {part: feature_metrics(some, real) for part, some in parts.items()}


def compare_ways(trained: TrainedRun, features: nn.Module) -> dict[str, Any]:
    """What lies between random pairs of training images, on each way; see ``way_metrics``."""
    table = trained.model.latents.weight
    ways: dict[str, Way] = dict(WAYS)
    if default_prior(*table.shape) == "flow":
        ways["flow"] = trained.flow_way()
    images = trained.images(range(len(table)))
    num = min(MOST, len(table))
    found = way_metrics(ways, trained.model, table, trained.model.project, images, features, num)
    if held_out := held_out_parts(trained.data, MOST).get("holdout"):
        held_out_features = extract(trained.data.dataset[held_out][0], features)
        found["held-out images"] = {"nearest": nearest_distance(held_out_features, extract(images, features))}
    return found


def held_out_parts(data: LSUNDataModule, most: int) -> dict[str, list[int]]:
    """The first held-out images; and the first that combine two attributes' values as no training image does."""
    rows = data.holdout_rows(len(data.source))
    parts = {"holdout": rows[:most]}
    if data.attributes is not None:
        new = data.attributes.new_pairs(data.num_images).tolist()
        parts["holdout_new_pairs"] = [row for row in rows if new[row]][:most]
    return {name: some for name, some in parts.items() if some}


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
    for probes, neighbours in PROBES.items():
        if probes in results:
            names = [name for name in results[probes]["codes"] if name != "images"]
            title = f"vote of {neighbours} neighbours of" if neighbours else "linear probe of"
            print(f"\n| {title} held-out | of training images | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
            for name, r in results[probes].items():
                told = (f"{r[key]:.1%}" if key in r else "" for key in names)
                print(f"| {name} | {r['images']} | {' | '.join(told)} |")
    if "features" in results:
        print(f"\n| {options.features} | Frechet | kernel | precision | recall |\n|---|---|---|---|---|")
        for name, r in results["features"].items():
            print(f"| {name} | {r['frechet']:.3f} | {r['kernel']:.5f} | {r['precision']:.2f} | {r['recall']:.2f} |")
    if "ways" in results:
        keys = list(results["ways"]["arc"])
        print(f"\n| way | {' | '.join(keys)} |\n|---|{'---|' * len(keys)}")
        for name, r in results["ways"].items():
            print(f"| {name} | {' | '.join(f'{r[key]:.3f}' if key in r else '' for key in keys)} |")


def main() -> None:
    parser = CommandParser(__doc__, output="evaluation.json", writes="the JSON file that it writes", flag="--json")
    parser.add_argument("--num", type=int, default=128, help="images of each kind, at most")
    parser.add_argument("--starts", nargs="+", default=["pca", "mean", "random"], choices=STARTS)
    parser.add_argument("--steps", type=int, default=150, help="of encoding")
    parser.add_argument("--loss", help="of encoding: lap_l1, l2 or the path of a class; the run's if not given")
    parser.add_argument("--features", help="inception, a TorchScript file or the path of a class")
    parser.call(lambda: run(parser.parse_args()))


def run(options: argparse.Namespace) -> None:
    check_at_least("num", options.num, 2)
    check_at_least("steps", options.steps, 1)
    features = load_features(options.features) if options.features else None
    if options.loss:
        make_loss(options.loss)
    pictured = options.output.with_suffix(".png")
    check_outputs({"json": pictured}, options.overwrite)
    trained = load_run(options.run, options.accelerator, options.root)
    results, shown = measure(trained, options)
    if features is not None:
        results["features"] = compare_samples(trained, features)
        results["ways"] = compare_ways(trained, features)
    report(results, options)
    with named_writing("json", options.output):
        write_json(options.output.absolute(), results)
        write_png(pictured, shown)
    print(f"wrote {options.output} and {pictured}")


if __name__ == "__main__":
    main()
