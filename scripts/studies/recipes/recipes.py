"""What makes a short training good? python scripts/studies/recipes/recipes.py --json FILE [--seconds 30] [--root DIR]

Each recipe differs from the first in one thing. It trains for as many steps as fit into the seconds on this machine,
measured for all recipes beforehand and in turn. Then the first 4,096 images at most are reconstructed from their codes:
PSNR is that of the mean squared error over these, SSIM the mean over images, both for images in [0, 1].
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import SGD

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import Recipe, Results, StudyParser, silence, train

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.codes import generate
from glo_lightning.explore.metrics import quality
from glo_lightning.generator import Generator
from glo_lightning.images import from_uint8
from glo_lightning.losses import LaplacianLoss
from glo_lightning.module import GLO

BASE: dict[str, Any] = {"latent_dim": 100, "batch_size": 32, "schedule": "cosine", "whiten": True}
BASE |= {"loss": partial(LaplacianLoss, l2_weight=1.0), "optimizer": partial(SGD, lr=1.0, weight_decay=0.003)}
MINIMAL_GLO: dict[str, Any] = {"batch_size": 128, "schedule": "constant", "whiten": False}
MINIMAL_GLO |= {"loss": LaplacianLoss, "optimizer": partial(SGD, lr=1.0)}


class GroupNormGenerator(Generator):
    """DCGAN with a GroupNorm of 16 groups for every BatchNorm."""

    def __init__(self, latent_dim: int, image_size: int, channels: int, width: int):
        super().__init__(latent_dim, image_size, channels, width)
        for number, layer in enumerate(self.layers):
            if isinstance(layer, nn.BatchNorm2d):
                self.layers[number] = nn.GroupNorm(min(16, layer.num_features), layer.num_features)


RECIPES: dict[str, dict[str, Any]] = {
    "batch 32, cosine, whitened, L2 and weight decay": {},
    "minimal_glo's: batch 128, constant, not whitened": MINIMAL_GLO,
    "no L2, no weight decay": {"loss": LaplacianLoss, "optimizer": partial(SGD, lr=1.0)},
    "no L2": {"loss": LaplacianLoss},
    "no weight decay": {"optimizer": partial(SGD, lr=1.0)},
    "weight_decay 0.001": {"optimizer": partial(SGD, lr=1.0, weight_decay=0.001)},
    "weight_decay 0.01": {"optimizer": partial(SGD, lr=1.0, weight_decay=0.01)},
    "batch 128": {"batch_size": 128},
    "batch 64": {"batch_size": 64},
    "batch 16": {"batch_size": 16},
    "constant rates": {"schedule": "constant"},
    "not whitened": {"whiten": False},
    "whitened, on the sphere": {"constraint": "sphere"},
    "latent_lr / 10": {"latent_lr": 1 / 128},
    "generator_lr 2": {"optimizer": partial(SGD, lr=2.0, weight_decay=0.003)},
    "generator_lr 0.5": {"optimizer": partial(SGD, lr=0.5, weight_decay=0.003)},
    "GroupNorm": {"generator": GroupNormGenerator},
    "L1 and L2 (no pyramid)": {"loss": partial(LaplacianLoss, levels=0, l2_weight=1.0)},
    "L2 alone": {"loss": nn.MSELoss},
}


def make_recipe(name: str, root: str | None, width: int) -> Recipe:
    """The recipe of that name, for ``harness.train``."""

    def build(seed: int) -> tuple[GLO, LSUNDataModule]:
        arguments = {"generator": Generator} | BASE | RECIPES[name]
        data = LSUNDataModule(root, batch_size=arguments.pop("batch_size"), seed=seed)
        arguments["generator"] = partial(arguments["generator"], width=width)
        return GLO(data.num_images, **arguments), data

    return build


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_repeat_arguments(precision="32-true")
    parser.add_argument("--seconds", type=float, default=30, help="processor seconds of a training")
    parser.add_argument("--epochs", type=int, help="epochs of every training, instead of equal seconds")
    parser.add_argument("--root", help="images, as --data.root takes them; the shipped faces if not given")
    parser.add_argument("--width", type=int, default=64, help="width of the generator")
    names = list(RECIPES)
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="RECIPE", help="rows")
    options = parser.parse_args()
    silence()
    results = Results(options.json)
    recipes = {name: make_recipe(name, options.root, options.width) for name in options.only}
    if not options.epochs:
        results.measure_steps(options.seconds, recipes, options.precision, "auto")
    for name, seed in results.missing(options.only, options.seeds):
        steps = -1 if options.epochs else results.steps[name]
        limits: dict[str, Any] = {"max_steps": steps, "max_epochs": options.epochs or -1}
        model, data, _ = train(recipes[name], seed, options.precision, **limits)
        images, _ = data.dataset[list(range(min(data.num_images, 4096)))]
        measured = quality(generate(model, model.latents.weight[: len(images)]), from_uint8(images), model.loss)
        epochs = model.trainer.global_step / len(data.train_dataloader())
        results.add(name, {"epochs": epochs, "PSNR, dB": measured["psnr"], "SSIM": measured["ssim"]})
    print(results.table("recipe", options.only))


if __name__ == "__main__":
    main()
