"""Compares recipes at equal seconds: python scripts/studies/recipes.py [--seconds 30] [--seeds 3] [--root DIR] ...

Each recipe differs from the first in one thing. It trains for as many steps as fit into the seconds on this machine,
for all recipes measured beforehand and in turn; then the images, the first 4,096 at most, are reconstructed from their
codes in eval mode. PSNR is that of the mean squared error over these, SSIM the mean over images, both for images in
[0, 1]; the table has mean and the sample's standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Recipe, mean_and_deviation, steps_within, train
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.evaluation import generate, quality
from glo_lightning.files import write_text
from glo_lightning.images import from_uint8
from glo_lightning.module import GLO

BASE: dict[str, Any] = {
    "latent_dim": 100,
    "schedule": "cosine",
    "whiten": True,
    "batch_size": 32,
    "l2_weight": 1.0,
    "weight_decay": 0.003,
}
MINIMAL_GLO: dict[str, Any] = {
    "batch_size": 128,
    "schedule": "constant",
    "whiten": False,
    "l2_weight": 0.0,
    "weight_decay": 0.0,
}


def use_group_norm(model: GLO) -> None:
    """Replaces every BatchNorm by a GroupNorm of 16 groups."""
    layers: Any = model.generator.layers
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            layers[number] = nn.GroupNorm(min(16, layer.num_features), layer.num_features)


def keep_latent_rate(model: GLO) -> None:
    """Lets the schedule move the generator's rate alone."""
    set_rates = model.set_rates

    def set_generator_rate(step: int) -> None:
        set_rates(step)
        model.optimizers().param_groups[1]["lr"] = model.latent_lr  # type: ignore[union-attr]

    model.set_rates = set_generator_rate  # type: ignore[method-assign]


class AverageWeights(Callback):
    """Ends with the exponential average of the generator's weights over about the last 100 steps."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.average = AveragedModel(pl_module.generator, multi_avg_fn=get_ema_multi_avg_fn(0.99))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.average.update_parameters(pl_module.generator)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.generator.load_state_dict(self.average.module.state_dict())
        update_bn(
            pl_module.latents.weight.detach().split(128), pl_module.generator
        )  # their means are not those of these


def average_weights(model: GLO) -> None:
    """See AverageWeights."""
    model.configure_callbacks = lambda: [AverageWeights()]  # type: ignore[method-assign]


RECIPES: dict[str, tuple[dict[str, Any], Callable[[GLO], None] | None]] = {
    "batch 32, cosine, whitened, L2 and weight decay": ({}, None),
    "minimal_glo's: batch 128, constant, not whitened": (MINIMAL_GLO, None),
    "no L2, no weight decay": ({"l2_weight": 0.0, "weight_decay": 0.0}, None),
    "no L2": ({"l2_weight": 0.0}, None),
    "no weight decay": ({"weight_decay": 0.0}, None),
    "weight_decay 0.001": ({"weight_decay": 0.001}, None),
    "weight_decay 0.01": ({"weight_decay": 0.01}, None),
    "batch 128": ({"batch_size": 128}, None),
    "batch 64": ({"batch_size": 64}, None),
    "batch 16": ({"batch_size": 16}, None),
    "constant rates": ({"schedule": "constant"}, None),
    "constant rates, averaged weights": ({"schedule": "constant"}, average_weights),
    "averaged weights": ({}, average_weights),
    "constant rate of the codes": ({}, keep_latent_rate),
    "not whitened": ({"whiten": False}, None),
    "whitened, on the sphere": ({"constraint": "sphere"}, None),
    "latent_lr / 10": ({"latent_lr": 1 / 128}, None),
    "generator_lr 2": ({"generator_lr": 2.0}, None),
    "generator_lr 0.5": ({"generator_lr": 0.5}, None),
    "GroupNorm": ({}, use_group_norm),
    "L1 and L2 (no pyramid)": ({"levels": 0}, None),
    "L2 alone": ({"loss": "l2", "l2_weight": None}, None),
}


def recipe_of(name: str, root: str | None, width: int) -> Recipe:
    """What the harness trains for the recipe of that name."""

    def build(seed: int) -> tuple[GLO, LSUNDataModule]:
        changes, patch = RECIPES[name]
        arguments = BASE | changes
        data = LSUNDataModule(root, batch_size=arguments.pop("batch_size"), seed=seed)
        model = GLO(data.num_images, width=width, **arguments)
        if patch:
            patch(model)
        return model, data

    return build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="of training, for each run")
    parser.add_argument("--epochs", type=int, help="the same number for all, instead of the same seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", help="an LMDB; the shipped images if not given")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--only", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--json", type=Path, help="writes the results of every run into this file")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    results: dict[str, list[dict[str, float]]] = {}
    recipes = {name: recipe_of(name, options.root, options.width) for name in options.only}
    lengths = {} if options.epochs else steps_within(options.seconds, recipes, options.precision)
    print("| recipe | epochs | PSNR, dB | SSIM |\n|---|---|---|---|", flush=True)
    for name, recipe in recipes.items():
        runs = []
        for seed in range(options.seeds):
            length: dict[str, Any] = {"max_steps": lengths.get(name, -1), "max_epochs": options.epochs or -1}
            model, data, seconds = train(recipe, seed, options.precision, **length)
            steps = model.trainer.global_step
            epochs = steps / len(data.train_dataloader())
            images, _ = data.dataset[list(range(min(data.num_images, 4096)))]
            codes = model.latents.weight[: len(images)]
            measured = quality(generate(model, codes), from_uint8(images), model.loss)
            runs.append(measured | {"epochs": epochs, "seconds": seconds * steps})
        cells = [mean_and_deviation([run[key] for run in runs], digits) for key, digits in (("psnr", 2), ("ssim", 3))]
        print(f"| {name} | {epochs:.1f} | {cells[0]} | {cells[1]} |", flush=True)
        results[name] = runs
        if options.json:
            write_text(options.json.absolute(), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
