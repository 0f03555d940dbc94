"""Measures a run on training images and on held-out ones: glo evaluate RUN [--json FILE]

Training images are reconstructed from their own codes, and from codes that are encoded. Held-out images (train with
--data.holdout) are encoded in the same way, so that the two compare; so does PCA with as many dimensions. If the images
have labels, held-out images that combine two labels as no training image does have a row of their own. Linear probes
and nearest neighbours then measure what codes tell of each label, beside PCA codes and pixels. --features compares
samples of the priors, and images between codes, with real images. scripts/studies/baselines trains other models.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.sampler import rows_without
from glo_lightning.errors import check_at_least
from glo_lightning.explore.codes import encode_images, generate
from glo_lightning.explore.features import extract, load_features
from glo_lightning.explore.flows import default_path, interpolation
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.metrics import feature_metrics, neighbours_kept, probe, quality
from glo_lightning.explore.outputs import check_outputs, named_writing, write_png
from glo_lightning.explore.path_metrics import interpolation_metrics, nearest_distances
from glo_lightning.explore.paths import INTERPOLATIONS
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_json
from glo_lightning.generator import code_side
from glo_lightning.images import from_uint8, to_uint8
from glo_lightning.losses import find_loss, make_loss
from glo_lightning.pca import ImagePCA, fit_comparable_pca
from glo_lightning.priors.prior import make_prior, sample_codes

MAX_IMAGES = 4096
MAX_SHOWN = 10  # images in the picture
TITLES = {
    "train": "training images, as trained",
    "train_encoded": "training images, encoded",
    "holdout": "held-out images, encoded",
    "holdout_new_pairs": "held-out, new pairs of labels, encoded",
    "pca_train": "training images, {pca}",
    "pca_holdout": "held-out images, {pca}",
    "pca_holdout_new_pairs": "held-out, new pairs of labels, {pca}",
    "train_all": "all training images, as trained",
}
PROBES = {"probes": 0, "neighbours": 5}  # of labels: number of neighbours that vote, 0 for a linear probe
CHANCE = "chance: the most frequent label"
MAX_PIXELS = 50_000_000  # values in the table of pixels that a probe is fitted to
MIN_COMPARED = 100  # images for a distance of features


def measure(run: TrainedRun, options: argparse.Namespace) -> tuple[dict[str, Any], Image.Image]:
    """Measure each kind of reconstruction and how the codes have changed; draw some of the images."""
    model, table = run.model, run.trained_codes
    training = run.images(run.rows[: max(model.n_pca, MAX_IMAGES)].tolist())
    rows = held_out_parts(run.data, options.num)
    parts = {name: run.data.dataset[held_out][0] for name, held_out in rows.items()}
    first = training[: max(map(len, parts.values()), default=options.num)]
    loss = None
    if options.loss:
        sizes = (model.hparams["image_size"], model.hparams["channels"])
        loss = make_loss(find_loss(options.loss), *sizes).to(model.device)
    pca = fit_comparable_pca(training[: model.n_pca], table.shape[1], code_side(model.generator))
    results: dict[str, Any] = {} if pca is None else {"pca": pca.title}

    def add(name: str, generated: Tensor, images: Tensor) -> None:
        targets = from_uint8(images.to(generated.device))
        results[name] = quality(generated, targets, model.loss) | {"images": len(images)}

    add("train", generate(model, table[: len(first)]), first)
    for name, images in {"train": first, **parts}.items():
        # an encoder was fitted to the training images; with one, they and held-out images would not compare
        codes = encode_images(run, images, None, options.starts, options.steps, loss)
        reconstructions = generate(model, codes)
        add("train_encoded" if name == "train" else name, reconstructions, images)
        compared = [images, reconstructions]
        if pca is not None:
            compared.append(pca.reconstruct(from_uint8(images)).to(model.device))
            add(f"pca_{name}", compared[-1], images)
        if name != "holdout_new_pairs":
            columns = compared
        if name == "holdout" and run.data.attributes is not None:
            results |= probe_codes(run, training, codes.cpu(), images, rows["holdout"], pca)
    training = training[:MAX_IMAGES]
    add("train_all", generate(model, table[: len(training)]), training)
    if run.initial is not None and len(run.initial) > 1:
        kept = run.rows[run.rows < len(run.initial)]
        before, now = run.initial[kept], run.codes.cpu()[kept]
        moved = float((now - before).norm(dim=1).mean())
        results["latents"] = {"moved": moved, "neighbours_kept": neighbours_kept(before, now)}
    captions = ["held-out image" if parts else "training image", "encoded", *([] if pca is None else [pca.title])]
    return results, picture([list(part[:MAX_SHOWN]) for part in columns], captions=captions)


def probe_codes(
    run: TrainedRun, training: Tensor, codes: Tensor, images: Tensor, rows: list[int], pca: ImagePCA | None
) -> dict[str, dict[str, Any]]:
    """Probe the codes (M, D) of held-out images, their PCA codes and their pixels; see ``metrics.probe``."""
    table, attributes = run.trained_codes.cpu(), run.data.attributes
    assert attributes is not None
    attributes = attributes.select(torch.cat([run.rows, torch.tensor(rows)]))
    held_out_rows = torch.arange(len(rows)) + len(run.rows)
    training = training[: len(table)]
    num_images = max(1, MAX_PIXELS // images[0].numel())
    kinds = {"codes": [table[: len(training)], codes]}
    if pca is not None:
        kinds["PCA codes"] = [pca.codes(from_uint8(part)) for part in (training, images)]
    kinds["pixels"] = [from_uint8(part).flatten(1) for part in (training[:num_images], images)]
    chance = {CHANCE: {"images": len(table)} | probe(table, codes, attributes, held_out_rows, None)}
    return {
        title: {
            kind: {"images": len(fitted)} | probe(fitted, held_out, attributes, held_out_rows, neighbours)
            for kind, (fitted, held_out) in kinds.items()
        }
        | chance
        for title, neighbours in PROBES.items()
    }


def compare_samples(run: TrainedRun, features: nn.Module) -> dict[str, Any]:
    """Compare samples of the priors, reconstructions and held-out images with training images."""
    model, training = run.model, run.images(run.rows[:MAX_IMAGES].tolist())
    real, num = extract(training, features), len(training)

    def of_codes(codes: Tensor) -> Tensor:
        return extract(to_uint8(generate(model, codes)).cpu(), features)

    parts = {}
    table = run.trained_codes
    for name in dict.fromkeys(("gaussian", run.default_prior)):
        samples = sample_codes(run.fit_prior(make_prior(name)), table, num, model.project)
        parts[f"samples, {name}"] = of_codes(samples)
    parts["reconstructions"] = of_codes(table[:num])
    nearest = NearestNeighbors(n_neighbors=1).fit(table[:num].cpu().numpy()).kneighbors()[1][:, 0]
    middles = model.project((table[:num] + table[torch.from_numpy(nearest).to(table.device)]) / 2)
    parts["middles of nearest codes (iFID)"] = of_codes(middles)  # arXiv 2603.05630
    for name, rows in held_out_parts(run.data, MAX_IMAGES).items():
        if len(rows) >= MIN_COMPARED:
            parts[name] = extract(run.data.dataset[rows][0], features)
    counts = {"training_images": num}
    return {name: {"images": len(part)} | counts | feature_metrics(part, real) for name, part in parts.items()}


def compare_paths(run: TrainedRun, features: nn.Module) -> dict[str, Any]:
    """Measure paths between random pairs of training images; see ``interpolation_metrics``."""
    names = [*INTERPOLATIONS, *(["flow"] if default_path(run) == "flow" else [])]
    paths = {name: interpolation(run, name) for name in names}
    images = run.images(run.rows.tolist())
    num = min(MAX_IMAGES, len(run.rows))
    results = interpolation_metrics(paths, run.model, run.trained_codes, run.model.project, images, features, num)
    if held_out := held_out_parts(run.data, MAX_IMAGES).get("holdout"):
        distances = nearest_distances(extract(run.data.dataset[held_out][0], features), extract(images, features))
        results["held-out images"] = {"nearest": float(distances.median())}
    return results


def held_out_parts(data: LSUNDataModule, most: int) -> dict[str, list[int]]:
    """The first held-out images, and the first that combine two labels as no training image does."""
    rows = data.holdout_rows(len(data.source))
    parts = {"holdout": rows[:most]}
    if data.attributes is not None:
        trained = rows_without(data.skipped, data.num_images)
        new = data.attributes.select(torch.tensor([*trained, *rows])).new_pairs(len(trained))[len(trained) :]
        parts["holdout_new_pairs"] = torch.tensor(rows)[new].tolist()[:most]
    return {name: part for name, part in parts.items() if part}


def report(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the tables."""
    print("| | images | PSNR, dB | SSIM | loss |\n|---|---|---|---|---|")
    for name, title in TITLES.items():
        if name in results:
            r, title = results[name], title.format(pca=results.get("pca"))
            print(f"| {title} | {r['images']} | {r['psnr']:.2f} | {r['ssim']:.3f} | {r['loss']:.4f} |")
    starts, loss = ", ".join(options.starts), options.loss or "the run's loss"
    print(f"\nencoded: starts {starts}; from the best one at most {options.steps} steps of Adam on {loss}")
    if "latents" in results:
        latents = results["latents"]
        kept = f"of 10 nearest neighbours {latents['neighbours_kept']:.0%} are the same"
        print(f"the codes moved {latents['moved']:.3f} from their start; {kept}")
    for probes, neighbours in PROBES.items():
        if probes in results:
            names = [name for name in results[probes]["codes"] if name != "images"]
            title = f"vote of {neighbours} neighbours of" if neighbours else "linear probe of"
            title = f"{title} {results['holdout']['images']} held-out images"
            print(f"\n| {title} | fitted to training images | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
            for name, r in results[probes].items():
                cells = (f"{r[key]:.1%}" if key in r else "" for key in names)
                print(f"| {name} | {r['images']} | {' | '.join(cells)} |")
    if "holdout" not in results:
        print("\nno rows of held-out images and no probes: none are held out. Train with --data.holdout 64, say")
    elif "probes" not in results:
        print("\nno probes of labels: the images have none")
    if "features" in results:
        num = results["features"]["reconstructions"]["training_images"]
        print(f"\nfeatures of {options.features}, compared with those of {num} training images")
        print("| | images | Frechet distance | kernel distance | precision | recall |\n|---|---|---|---|---|---|")
        for name, r in results["features"].items():
            distances = f"{r['frechet']:.3f} | {r['kernel']:.5f} | {r['precision']:.2f} | {r['recall']:.2f}"
            print(f"| {name} | {r['images']} | {distances} |")
    if "paths" in results:
        keys = list(results["paths"]["arc"])
        print(f"\n| path | {' | '.join(keys)} |\n|---|{'---|' * len(keys)}")
        for name, r in results["paths"].items():
            print(f"| {name} | {' | '.join(f'{r[key]:.3f}' if key in r else '' for key in keys)} |")


def run(options: argparse.Namespace) -> None:
    check_at_least("num", options.num, 2)
    check_at_least("steps", options.steps, 1)
    features = load_features(options.features) if options.features else None
    pictured = options.output.with_suffix(".png")
    check_outputs({"json": pictured}, options.overwrite)
    run = load_run(options.run, options.accelerator, options.root)
    results, examples = measure(run, options)
    if features is not None:
        results["features"] = compare_samples(run, features)
        results["paths"] = compare_paths(run, features)
    report(results, options)
    with named_writing("json", options.output):
        write_json(options.output.absolute(), results)
        write_png(pictured, examples)
    print(f"wrote {options.output} and {pictured}")
