"""Which generator, loss or way to learn codes is best in equal seconds? scripts/studies/equal_seconds.py WHAT --json F

Trains each generator of decoders.py, and DCGAN; or DCGAN with each loss of image_losses.py, the pyramid and pixels'
errors; or with its codes learned in each way of learners.py, by SGD, and not at all; for the same processor seconds, at
each of four rates: two of SGD, as the package has it, and two of AdamW. Generators' widths are such that a step costs
about the same. With ``--accelerator gpu`` all train at once (fleet.py), as many steps as one core takes in these
seconds, which ``--steps_only`` has measured on a CPU.

Prints PSNR and SSIM of training and of held-out images; given a feature network (judge.py's, or one that ``evaluate.py
--features`` takes), the Frechet distances to the training images of reconstructions, of the flow's samples and of
images half-way by the flow; parameters, images/s, and the MB that a step keeps for its gradients. What stands in the
JSON file is not made again.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import fleet
import torch
from harness import BATCH, datamodule, mean_and_deviation, steps_within
from image_losses import ShiftTolerant
from learners import FreshSteps, GaussNewton, MixturePrior, Variational
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchvision.utils import save_image

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.evaluation import extract, frechet, generate, load_features
from glo_lightning.explore.flow import Flow
from glo_lightning.explore.flow_way import through
from glo_lightning.explore.priors import sample_codes
from glo_lightning.files import write_text
from glo_lightning.images import from_uint8, psnr, to_uint8, to_unit
from glo_lightning.module import GLO

GENERATORS: dict[str, dict[str, Any]] = {
    "DCGAN": {"width": 32},
    "Residual": {"generator": "decoders.Residual", "width": 16},
    "ResidualRms": {"generator": "decoders.ResidualRms", "width": 14},
    "Modulated": {"generator": "decoders.Modulated", "width": 22},
    "Skip": {"generator": "decoders.Skip", "width": 12},
    "Transformer": {"generator": "decoders.Transformer", "width": 12},
    "Normless": {"generator": "decoders.Normless", "width": 20},
    "Skips from the code": {"generator": "skip_z", "width": 24},
    "the same, wider": {"generator": "skip_z", "width": 32},
    "the same, gain 4": {"generator": "skip_z", "width": 24, "generator_args": {"gain": 4.0}},
    "the same, gain 2": {"generator": "skip_z", "width": 24, "generator_args": {"gain": 2.0}},
    "the same, gain 1": {"generator": "skip_z", "width": 24, "generator_args": {"gain": 1.0}},
    "to the image of 64 pixels alone": {"generator": "skip_z", "width": 32, "generator_args": {"told": [3]}},
}
LOSSES: dict[str, dict[str, Any]] = {
    "pyramid": {},
    "pyramid and L2": {"l2_weight": 1.0},
    "pixels, L1 and L2": {"levels": 0, "l2_weight": 1.0},
    "pixels, L2": {"loss": "l2"},
    "focal frequency": {"loss": "image_losses.FocalFrequency"},
    "Watson-DFT": {"loss": "image_losses.WatsonDFT"},
}
# "class" is of GLO, "attributes" are set on it
CODES: dict[str, dict[str, Any]] = {
    "frozen": {"latent_lr": 0.0},
    "SGD": {},
    "whitened": {"latent_optimizer": "whitened", "latent_lr": 0.05},
    "1 fresh step": {"class": FreshSteps, "attributes": {"fresh": 1}},
    "4 fresh steps": {"class": FreshSteps, "attributes": {"fresh": 4}},
    "16 fresh steps": {"class": FreshSteps, "attributes": {"fresh": 16}},
    "Gauss-Newton, shared, rate 0.01": {"class": GaussNewton, "latent_lr": 0.01},
    "Gauss-Newton, shared, rate 0.1": {"class": GaussNewton, "latent_lr": 0.1},
    "Gauss-Newton, each row's": {"class": GaussNewton, "latent_lr": 0.03, "attributes": {"shared": False}},
    "a width for each code": {"class": Variational},
    "a mixture": {"class": MixturePrior, "generator": "learners.MixtureGenerator"},
}
SHOWN = 10
PAIRS = 4096  # of training images, at most, between which images half-way are made
BASE: dict[str, Any] = {"width": 32, "whiten": True, "schedule": "cosine", "weight_decay": 1e-3}
RATES = {"SGD 1": (1.0, "sgd"), "SGD 3": (3.0, "sgd"), "AdamW 0.001": (0.001, "adamw"), "AdamW 0.003": (0.003, "adamw")}


def variants(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is compared: name -> arguments of GLO."""
    if options.what == "generators":
        return {name: {"l2_weight": 1.0, **arguments} for name, arguments in GENERATORS.items()}
    if options.what == "codes":
        return {name: {"l2_weight": 1.0, **arguments} for name, arguments in CODES.items()}
    perceptual = {"loss": "image_losses.Perceptual", "loss_args": {"weights": str(options.vgg)}}
    losses = LOSSES | ({"perceptual": perceptual} if options.vgg else {})
    for file in options.trunks:
        arguments = {"trunk": "image_losses.ShiftTolerant", "trunk_args": {"weights": str(file)}}
        losses[f"perceptual, {file.stem}"] = {"loss": "image_losses.Perceptual", "loss_args": arguments}
    return losses


def recipe(options: argparse.Namespace, variant: dict[str, Any], rate: str) -> Any:
    generator_lr, optimizer = RATES[rate]
    arguments = dict(variant)
    kind, attributes = arguments.pop("class", GLO), arguments.pop("attributes", {})

    def make(seed: int) -> tuple[GLO, LSUNDataModule]:
        data = datamodule(options, seed)
        shape = {"image_size": options.image_size, "channels": data.num_channels}
        rates = {"generator_lr": generator_lr, "generator_optimizer": optimizer}
        if optimizer == "adamw":
            rates["weight_decay"] = 0.01
        model = kind(data.num_images, options.latent_dim, **{**BASE, **shape, **rates, **arguments})
        for key, value in attributes.items():
            setattr(model, key, value)
        return model, data

    return make


def kept_megabytes(model: GLO) -> float:
    """What the generator keeps for the backward pass of a batch, weights left out."""
    kept: dict[int, Tensor] = {}  # by address: a tensor that two operations keep counts once

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        made = model.generator(model.latents.weight[:BATCH].clone().requires_grad_())
    weights = {parameter.data_ptr() for parameter in model.generator.parameters()}
    del made
    return sum(tensor.nbytes for address, tensor in kept.items() if address not in weights) / 1e6


def similarity(generated: Tensor, images: Tensor) -> dict[str, float]:
    """PSNR in dB and SSIM of images (M, C, H, W) in [-1, 1]."""
    structure = StructuralSimilarityIndexMeasure(data_range=1.0)(to_unit(generated).cpu(), to_unit(images).cpu())
    return {"PSNR": float(psnr(generated, images)), "SSIM": float(structure)}


def measure(
    options: argparse.Namespace, model: GLO, data: LSUNDataModule, features: nn.Module | None, title: str
) -> dict[str, Any]:
    """A row of the table; what the generator makes of the first held-out images' codes goes to --pictures."""
    table, num = model.latents.weight, min(options.num, data.num_images)
    training = data.dataset[list(range(data.num_images))][0].to(table.device)
    held_out = from_uint8(data.dataset[data.holdout_rows(options.encoded)][0].to(table.device))
    codes = model.encode(held_out, training, ["pca"], steps=60)
    encoded = generate(model, codes)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for name, images in (("images", held_out), (title, encoded)):
            save_image(to_unit(images[:SHOWN]), options.pictures / f"{name}.png", nrow=SHOWN)
    found = similarity(generate(model, table[:512]), from_uint8(training[:512]))
    found |= {f"held-out {key}": value for key, value in similarity(encoded, held_out).items()}
    if options.lpips:
        perceived = ShiftTolerant(options.lpips).to(table.device)
        found["held-out ST-LPIPS"] = float(perceived.distance(encoded, held_out).mean())
    if features is not None:
        reference = extract(training, features)

        def distance(some: Tensor) -> float:
            return frechet(extract(to_uint8(generate(model, some)), features), reference)

        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
        found["rec."] = distance(table[order[:num]])
        if not options.no_flow:
            flow = Flow().fit(table)
            found["samples"] = distance(sample_codes(flow, table, num, model.project))
            pairs = min(PAIRS, num)
            starts, ends = table[order[:pairs]], table[order[-pairs:].flip(0)]
            found["half-way"] = distance(through(flow)(starts, ends, 3, model.project)[1])
    found["parameters, M"] = sum(p.numel() for p in model.generator.parameters()) / 1e6
    return found | {"MB": kept_megabytes(model)}


def make(options: argparse.Namespace, job: fleet.Job) -> tuple[GLO, LSUNDataModule]:
    return recipe(options, variants(options)[job.names[0]], job.names[1])(job.seed)


def measured(options: argparse.Namespace, job: fleet.Job, model: GLO, data: LSUNDataModule) -> dict[str, Any]:
    """A job's row of the table."""
    features = load_features(options.features).to(model.device) if options.features else None
    title = ", ".join(job.names) + (f", seed {job.seed}" if job.seed else "")
    rate = BATCH * job.steps / options.seconds
    return measure(options, model, data, features, title) | {"images/s": rate}


def rows_of(name: str, rates: list[str]) -> list[tuple[str, str]]:
    """Name and rate of the rows that a name, or 'NAME, RATE', means."""
    before, _, rate = name.rpartition(", ")
    return [(before, rate)] if rate in RATES else [(name, rate) for rate in rates]


def _digits(column: str) -> int:
    return 4 if "LPIPS" in column else 3 if "SSIM" in column else 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["generators", "losses", "codes"])
    parser.add_argument("--json", type=Path, required=True, help="results, read and written")
    parser.add_argument("--root", help="an LMDB; the shipped images if not given")
    parser.add_argument("--features", help="a TorchScript file of features")
    parser.add_argument("--num_samples", type=int, help="all if not given")
    parser.add_argument("--holdout", type=int, default=512)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--latent_dim", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=300, help="of training")
    parser.add_argument("--no_flow", action="store_true", help="leaves samples and images half-way out")
    parser.add_argument("--num", type=int, default=10_000, help="images in each row's distances")
    parser.add_argument("--encoded", type=int, default=100, help="held-out images that are encoded")
    parser.add_argument("--pictures", type=Path, help="a folder for the first ten of them, as each row makes them")
    only = "names of the table, or 'NAME, RATE' for one of its rows; all if not given"
    parser.add_argument("--only", nargs="+", metavar="NAME", help=only)
    parser.add_argument("--vgg", type=Path, help="weights of VGG16, for a perceptual loss")
    parser.add_argument("--trunks", type=Path, nargs="+", default=[], help="weights of ST-LPIPS, for a loss by each")
    parser.add_argument("--lpips", type=Path, help="weights of ST-LPIPS, for its distance of held-out images")
    parser.add_argument("--rates", nargs="+", default=list(RATES), choices=list(RATES), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--workers", type=int, default=12, help="processes that measure, beside a GPU")
    parser.add_argument("--steps_only", action="store_true", help="measures how many steps fit in, and trains nothing")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    steps, compared = results.setdefault("steps", {}), variants(options)
    rows = [row for name in options.only or compared for row in rows_of(name, options.rates)]
    names = list(dict.fromkeys(name for name, _ in rows))
    trials = {name: recipe(options, compared[name], "SGD 1") for name in names if name not in steps}
    if trials and options.accelerator == "gpu":
        parser.error(
            f"--accelerator gpu: {options.json} has no steps of {', '.join(trials)}; give --steps_only on a CPU"
        )
    steps |= steps_within(options.seconds, trials, options.precision, "cpu")
    write_text(options.json.absolute(), json.dumps(results, indent=1))
    if options.steps_only:
        return
    jobs = [
        fleet.Job((name, rate), seed, steps[name])
        for seed in range(options.seeds)
        for name, rate in rows
        if len(results.get(f"{name}, {rate}", [])) <= seed
    ]
    parts = partial(make, options), partial(measured, options)
    done = fleet.run(jobs, *parts, options.accelerator, options.precision, options.workers)
    for job, found in done:
        results.setdefault(", ".join(job.names), []).append(found)
        write_text(options.json.absolute(), json.dumps(results, indent=1))
    columns = list(results[f"{rows[0][0]}, {rows[0][1]}"][0])
    print(f"| {options.what} | rate | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for name, rate in rows:
        runs = results[f"{name}, {rate}"]
        cells = [mean_and_deviation([run[key] for run in runs], _digits(key)) for key in columns]
        print(f"| {name} | {rate} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
