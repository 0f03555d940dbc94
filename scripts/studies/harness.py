"""What the studies share: training a recipe, steps of equal seconds, mean and deviation over seeds."""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from glo_lightning.data import LSUNDataModule

Recipe = Callable[[int], tuple[LightningModule, LSUNDataModule]]  # seed -> what to train, on what


BATCH = 32


def datamodule(options: argparse.Namespace, seed: int) -> LSUNDataModule:
    """The images that a study's options name: root, num_samples, holdout, image_size."""
    sizes = {"holdout": options.holdout, "image_size": options.image_size, "batch_size": BATCH}
    return LSUNDataModule(options.root, options.num_samples, **sizes, seed=seed)


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """``mean ± deviation``, the sample's, of several values; the value alone of one, and ``-`` of none."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


class _Seconds(Callback):
    """Tells how long a step takes, the first one left out.

    On a CPU these are seconds of its processors' time, divided by the number of threads: other programs that run
    beside it hardly disturb them.
    """

    def now(self, trainer: Trainer) -> float:
        if trainer.strategy.root_device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            self.began = self.now(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.step = (self.now(trainer) - self.began) / max(trainer.global_step - 1, 1)


def train(
    recipe: Recipe, seed: int, precision: str, accelerator: str = "auto", **limits: Any
) -> tuple[Any, Any, float]:
    """Trains a recipe; returns it in eval mode, its data, and the seconds that a step took.

    Args:
        recipe: from a seed to (module, datamodule).
        seed: of all random numbers.
        precision, accelerator, limits: of the Trainer, such as ``max_steps``.
    """
    seed_everything(seed, workers=True, verbose=False)
    model, data = recipe(seed)
    seconds = _Seconds()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    one: dict[str, Any] = {"accelerator": accelerator, "devices": 1, "precision": precision, "limit_val_batches": 0}
    Trainer(logger=False, callbacks=[seconds], **one, **quiet, **limits).fit(model, data)
    return model.eval().requires_grad_(False), data, seconds.step


def steps_within(
    seconds: float, recipes: dict[str, Recipe], precision: str, accelerator: str = "auto"
) -> dict[str, int]:
    """Steps of each that fit into the seconds: by the fastest of three trials of 25, in which they take turns."""
    fastest = dict.fromkeys(recipes, math.inf)
    for name in [*recipes] * 3:
        _, _, step = train(recipes[name], 0, precision, accelerator, max_steps=25, max_epochs=-1)
        fastest[name] = min(fastest[name], step)
    return {name: max(1, round(seconds / step)) for name, step in fastest.items()}
