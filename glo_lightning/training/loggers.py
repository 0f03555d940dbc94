"""Lightning's loggers: where they write, which logged run they continue, and what each makes of pictures."""

from __future__ import annotations

import csv
import inspect
import json
import os
from argparse import Namespace  # also of jsonargparse's, which the benchmark does without
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger, Logger
from torch import Tensor

from glo_lightning.errors import decoding
from glo_lightning.files import write_text, write_whole
from glo_lightning.images import to_unit

if TYPE_CHECKING:
    from glo_lightning.module import GLO

LOGGED_RUNS = "loggers.json"  # in the run folder: the arguments that continue a logged run, by the logger's class
NEED_SAVE_DIR = ("CSVLogger", "TensorBoardLogger")  # whose save_dir must be given
# TensorBoard sorts tags by name; its Custom Scalars have the charts in this order, each of tags that match a pattern.
CHARTS = {
    "loss": ["train/loss_epoch", "train/loss$"],
    "val/psnr": ["val/psnr"],
    "learning rates": ["lr-"],
    "norm of the codes": ["latents/norm_mean"],
    "distance of the codes from their start": ["latents/moved"],
    "images per second": ["train/images_per_second"],
}
NOT_GIVEN = (None, "", ".", "./mlruns", "lightning_logs")  # the loggers' own defaults of places and names


def complete_loggers(loggers: Any, folder: Path, recipe: str, first_step: int | None) -> None:
    """Fills in what the user left open: files go into the run folder, names are the recipe's and the folder's.

    Logged runs that the folder names are continued.

    Args:
        loggers: one or several classes with arguments, or a bool.
        folder: the run folder.
        recipe: the name of the recipe.
        first_step: the step from which a run is resumed; later events of TensorBoard's no longer count. Else None.
    """
    file = folder / LOGGED_RUNS
    logged: dict[str, dict[str, Any]] = {}
    if file.exists():
        with decoding("resume", file, "Remove it, and the run goes into new ones of its loggers."):
            logged = {name: dict(arguments) for name, arguments in json.loads(file.read_text()).items()}
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Namespace):
            name = logger.class_path.rpartition(".")[2]
            arguments = logger.get("init_args") or {}  # none of a class that takes none
            defaults = _defaults(name, folder, recipe) | {"purge_step": first_step}
            for key, value in (defaults | logged.get(name, {})).items():
                if key in arguments and arguments[key] in NOT_GIVEN:
                    arguments[key] = value


def _defaults(name: str, folder: Path, recipe: str) -> dict[str, Any]:
    """The arguments of a logger's class that put it into the run folder."""
    if name == "WandbLogger":
        os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")  # seconds; W&B itself waits 90 where there is no network
        return {"save_dir": str(folder), "project": recipe, "name": folder.name}
    if name == "CometLogger":
        return {"project": recipe}
    if name == "MLFlowLogger":
        store = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "artifact_location": f"{folder}/mlartifacts"}
        return {"save_dir": None, "experiment_name": recipe, "run_name": folder.name, **store}
    return {"save_dir": str(folder), "name": "", "version": ""}


def _to_continue(logger: Logger) -> dict[str, Any]:
    """The arguments that continue the logger's run, if its class has such."""
    return {
        "WandbLogger": {"id": logger.version, "project": logger.name},
        "CometLogger": {"experiment_key": logger.version},
        "MLFlowLogger": {"run_id": logger.version},
    }.get(_kind(logger), {})


def keep_csv_rows(logger: Logger, first_step: int) -> None:
    """Keeps the rows of a CSVLogger before that step; Lightning's deletes the file of a run that it continues."""
    if not isinstance(logger, CSVLogger):
        return
    file = Path(logger.log_dir) / "metrics.csv"
    if file.exists():
        with open(file, newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if int(row["step"]) < first_step]
        logger.experiment.metrics = [{key: value for key, value in row.items() if value} for row in rows]
        logger.experiment.save()


class SetUpLoggers(Callback):
    """Logs the hyperparameters and the order of TensorBoard's charts.

    Keeps in the run folder what continues its logged runs when it is resumed.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: GLO, stage: str) -> None:  # type: ignore[override]
        if stage != "fit" or not trainer.is_global_zero:
            return
        parameters = {**_plain_arguments(getattr(trainer, "datamodule", None)), **pl_module.hparams}
        parameters |= {"max_epochs": trainer.max_epochs, "precision": trainer.precision}
        for logger in trainer.loggers:
            if _kind(logger) == "TensorBoardLogger":
                charts = {title: ["Multiline", tags] for title, tags in CHARTS.items()}
                logger.experiment.add_custom_scalars({"GLO": charts})  # type: ignore[attr-defined]
            if trainer.enable_autolog_hparams and not _has_hyperparameters(logger):
                logger.log_hyperparams(parameters)

    def on_train_start(self, trainer: Trainer, pl_module: GLO) -> None:  # type: ignore[override]
        logged = {type(logger).__name__: arguments for logger in trainer.loggers if (arguments := _to_continue(logger))}
        if logged and self.folder is not None and trainer.is_global_zero:
            write_text(self.folder / LOGGED_RUNS, json.dumps(logged, indent=1))


def _plain_arguments(datamodule: object) -> dict[str, Any]:
    """The constructor's arguments that the object keeps as plain values under their names."""
    names = inspect.signature(type(datamodule)).parameters if datamodule is not None else ()
    values = {name: getattr(datamodule, name, None) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def _has_hyperparameters(logger: Any) -> bool:
    """Whether this is a continued run of MLflow, whose parameters cannot be changed."""
    return _kind(logger) == "MLFlowLogger" and bool(logger.experiment.get_run(logger.version).data.params)


def make_picture(images: Tensor, columns: int = 8) -> Tensor:
    """A grid (3, H, W) in [0, 1] of images (B, C, h, w) in [-1, 1]."""
    from torchvision.utils import make_grid  # takes a second to import, which --help need not wait for

    return make_grid(to_unit(images.cpu()), nrow=columns)


def write_picture(path: Path, grid: Tensor) -> None:
    from torchvision.utils import save_image

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: save_image(grid, file, format="png"))


def log_picture(logger: Logger, tag: str, grid: Tensor, step: int) -> None:
    """Shows a picture (3, H, W) in [0, 1] in a logger that can show pictures; see ``PICTURES``."""
    show = PICTURES.get(_kind(logger))
    if show is not None:
        show(logger, tag, grid, step)


def _kind(logger: Logger) -> str:
    """The name of the logger's class, or of the first of its bases that PICTURES knows."""
    return next((kind.__name__ for kind in type(logger).__mro__ if kind.__name__ in PICTURES), "")


def _to_pil(grid: Tensor) -> Any:
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(grid.clamp(0, 1))


PICTURES: dict[str, Callable[[Any, str, Tensor, int], None]] = {  # one entry for a logger; by name: need not be there
    "TensorBoardLogger": lambda logger, tag, grid, step: logger.experiment.add_image(tag, grid, step),
    "WandbLogger": lambda logger, tag, grid, step: logger.log_image(tag, [_to_pil(grid)], step),
    "MLFlowLogger": lambda logger, tag, grid, step: logger.experiment.log_image(
        logger.version, _to_pil(grid), key=tag, step=step
    ),
    "CometLogger": lambda logger, tag, grid, step: logger.experiment.log_image(_to_pil(grid), name=tag, step=step),
}
