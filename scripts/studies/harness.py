"""What the studies share: training a recipe, steps of equal seconds, results that are kept, mean and deviation."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from timm.optim import Muon

from glo_lightning.commands.parser import HelpFormatter
from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import OneLineParser
from glo_lightning.explore.outputs import is_own
from glo_lightning.files import write_json

Recipe = Callable[[int], tuple[LightningModule, LSUNDataModule]]  # seed -> model and data

BATCH = 32
# as in configs/photographs.yaml
MUON = functools.partial(
    Muon, lr=0.01, fallback_lr_scale=0.3, momentum=0.9, nesterov=True, betas=(0.9, 0.99), weight_decay=0.01
)


class StudyParser(OneLineParser):
    """A parser whose --help is a program's docstring and gives every default."""

    def __init__(self, description: str | None):
        super().__init__(description)
        self.formatter_class = HelpFormatter

    def add_repeat_arguments(self, precision: str = "bf16-mixed") -> None:
        """Add --json, --seeds and --precision."""
        self.add_argument("--json", type=_results_file, required=True, help="results; its runs are not repeated")
        self.add_argument("--seeds", type=int, default=3, help="runs of each row")
        self.add_argument("--precision", default=precision, help="precision of the training")

    def add_data_arguments(self, holdout: int) -> None:
        """Add --root, --num_samples, --holdout, --holdout_split and --image_size, which ``datamodule`` takes."""
        self.add_argument("--root", help="images, as --data.root takes them; the shipped faces if not given")
        self.add_argument("--num_samples", type=int, help="number of images; all if not given")
        self.add_argument("--holdout", type=int, default=holdout, help="number of held-out images")
        self.add_argument("--holdout_split", help="the split to hold out, such as val, in the place of --holdout")
        self.add_argument("--image_size", type=int, default=64, help="height and width of the images")


def _results_file(text: str) -> Path:
    if Path(text).exists() and not is_own(Path(text)):
        raise argparse.ArgumentTypeError(f"{text} is there already and holds no results. Give another name")
    return Path(text)


def datamodule(options: argparse.Namespace, seed: int) -> LSUNDataModule:
    """Make the data that a study's options name: root, num_samples, holdout or holdout_split, image_size."""
    held_out: dict[str, Any] = {"holdout": options.holdout}
    if options.holdout_split:
        held_out = {"holdout_split": options.holdout_split}
    sizes = {"image_size": options.image_size, "batch_size": BATCH}
    return LSUNDataModule(options.root, options.num_samples, **held_out, **sizes, seed=seed)


def mean_and_deviation(values: Sequence[float], digits: int = 2) -> str:
    """``mean ± deviation``, the sample's, of several values; the value alone of one, and ``-`` of none."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def markdown(title: str, rows: Mapping[str, Mapping[str, float | str]], digits: int = 2) -> str:
    """A table with a row for each key and a column for each measure."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| {' | '.join([title, *columns])} |", "|---|" + "---|" * len(columns)]
    for name, row in rows.items():
        cells = [row.get(column, "") for column in columns]
        text = [cell if isinstance(cell, str) else f"{cell:.{digits}f}" for cell in cells]
        lines.append(f"| {' | '.join([name, *text])} |")
    return "\n".join(lines)


class Results:
    """Measures by row and seed, kept in a JSON file, so that an interrupted study continues where it stopped.

    Attributes:
        steps: training steps of each row.
        runs: the measures of each row, one dictionary a seed.

    Args:
        file: JSON, read if it exists.
    """

    def __init__(self, file: Path):
        self.file = file.absolute()
        content = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.steps: dict[str, int] = content.get("steps", {})
        self.runs: dict[str, list[dict[str, float]]] = content.get("runs", {})

    def add(self, name: str, measures: dict[str, float]) -> None:
        """Append the measures of a row's next seed and write the file."""
        self.runs.setdefault(name, []).append(measures)
        self.write()

    def write(self) -> None:
        write_json(self.file, {"steps": self.steps, "runs": self.runs})

    def missing(self, names: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
        """The rows and seeds that are not measured yet."""
        for seed in range(seeds):
            yield from ((name, seed) for name in names if len(self.runs.get(name, [])) <= seed)

    def measure_steps(self, seconds: float, recipes: Mapping[str, Recipe], precision: str, accelerator: str) -> None:
        """Set ``steps`` of the recipes that have none to what fits into the seconds; see ``steps_within``."""
        new = {name: recipe for name, recipe in recipes.items() if name not in self.steps}
        self.steps |= steps_within(seconds, new, precision, accelerator)
        self.write()

    def table(self, title: str, names: Sequence[str]) -> str:
        """Mean and deviation over seeds of the rows; of SSIM three digits, of other measures two."""
        rows: dict[str, dict[str, str]] = {name: {} for name in names}
        for name in names:
            runs = self.runs.get(name, [])
            for column in runs[0] if runs else []:
                digits = 3 if "SSIM" in column else 2
                rows[name][column] = mean_and_deviation([run[column] for run in runs], digits)
        return markdown(title, rows)


def silence() -> None:
    """Hide warnings, and what Lightning and this package log."""
    warnings.filterwarnings("ignore")
    for name, level in (("pytorch_lightning", logging.ERROR), ("glo_lightning", logging.WARNING)):
        logging.getLogger(name).setLevel(level)


class _StepTimer(Callback):
    """Measures the seconds of a step, without the first one.

    On a CPU these are seconds of processor time divided by the number of threads, so other programs on the machine
    hardly change them.
    """

    def now(self, trainer: Trainer) -> float:
        if trainer.strategy.root_device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            self.start = self.now(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.step = (self.now(trainer) - self.start) / max(trainer.global_step - 1, 1)


def train(
    recipe: Recipe, seed: int, precision: str, accelerator: str = "auto", **limits: Any
) -> tuple[Any, LSUNDataModule, float]:
    """Train a recipe; return the model in eval mode, its data, and the seconds of a step.

    Args:
        recipe: from a seed to model and data.
        seed: of all random numbers.
        precision, accelerator, limits: arguments of the Trainer, such as ``max_steps``.
    """
    seed_everything(seed, workers=True, verbose=False)
    model, data = recipe(seed)
    timer = _StepTimer()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    one: dict[str, Any] = {"accelerator": accelerator, "devices": 1, "precision": precision, "limit_val_batches": 0}
    Trainer(logger=False, callbacks=[timer], **one, **quiet, **limits).fit(model, data)
    return model.eval().requires_grad_(False), data, timer.step


def steps_within(
    seconds: float, recipes: Mapping[str, Recipe], precision: str, accelerator: str = "auto"
) -> dict[str, int]:
    """Steps of each recipe that fit into the seconds, by the fastest of three trials of 25 steps; recipes alternate."""
    fastest = dict.fromkeys(recipes, math.inf)
    for name in [*recipes] * 3:
        _, _, step = train(recipes[name], 0, precision, accelerator, max_steps=25, max_epochs=-1)
        fastest[name] = min(fastest[name], step)
    return {name: max(1, round(seconds / step)) for name, step in fastest.items()}
