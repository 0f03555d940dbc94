"""Trains GLO: glo train [--config configs/d100.yaml] [--data.root DIR] [--accelerator gpu] ...

Without --config and --resume it trains configs/quickstart.yaml on the images that come with the package. A Trainer's
argument, --trainer.max_epochs, is also a flag without trainer., --max_epochs. The arguments of a part follow its class,
--model.loss MSELoss --model.loss.reduction sum; --model.loss.help MSELoss lists them.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from glo_lightning.errors import InputError, did_you_mean
from glo_lightning.runs.names import missing_run
from glo_lightning.training.signatures import find_unknown, help_parser, unknown_flag

RECIPES = Path(__file__).resolve().parents[1] / "configs"
RANKS = {"RANK", "LOCAL_RANK", "SLURM_PROCID"}  # of one process of several, only the first of which reports errors


def run(arguments: list[str]) -> None:
    """Answer what needs no torch, which takes seconds to import; else train."""
    if {"-h", "--help"} & {*arguments}:
        help_parser(__doc__).parse_args(["--help"])
    arguments = [shipped_recipe(word) for word in arguments]
    if not RANKS & os.environ.keys() and (wrong := find_wrong(arguments)):
        sys.stderr.write(f"{wrong}\n")
        raise SystemExit(2)
    from glo_lightning.training.cli import main

    main(RECIPES / "quickstart.yaml", arguments)


def shipped_recipe(word: str) -> str:
    """The argument; or, outside of a checkout, the path of a recipe that comes with the package, configs/d100.yaml."""
    flag, equals, path = word.rpartition("=")
    is_shipped = Path(path).parent.name == "configs" and not os.path.exists(path)
    return f"{flag}{equals}{RECIPES / Path(path).name}" if is_shipped and (RECIPES / Path(path).name).exists() else word


def find_wrong(arguments: list[str]) -> str | InputError | None:
    """The line for a flag, a recipe or a run that does not exist."""
    if (unknown := find_unknown(arguments)) is not None:
        return unknown_flag(unknown)
    for word, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = word.partition("=")
        path = Path(value if equals else following)
        if flag in ("-c", "--config") and path.suffix == ".yaml" and not path.exists():
            recipes = [*path.parent.glob("*.yaml"), *(Path("configs") / recipe.name for recipe in RECIPES.iterdir())]
            meant = did_you_mean(str(path), map(str, recipes), otherwise="give a YAML file such as configs/d100.yaml")
            return f"--config {path}: there is no such file; {meant}"
        if flag == "--resume" and not (path / "config.yaml").is_file():
            return missing_run("--resume", path)
    return None
