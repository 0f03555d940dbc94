"""Which run a wrong name probably meant."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from glo_lightning.errors import InputError, did_you_mean


def missing_run(key: str, name: str | os.PathLike[str], others: Iterable[str] = ()) -> InputError:
    """The error for a name of no run; it names one in that folder or beside it, or one of ``others``."""
    folder = Path(name)
    if (folder / "generator.safetensors").is_file():  # which is no error where a run is read only
        remedy = f"is an exported run, which cannot be continued. Train anew by --config {folder}/recipe.yaml."
        return InputError(key, name, remedy)
    if folder.is_dir():
        runs = [*folder.glob("*/config.yaml")]
        runs += [] if key.endswith("resume") else [*folder.glob("*/generator.safetensors")]  # exports
        runs.sort(key=os.path.getmtime)
        if runs:
            return InputError(key, name, f"contains no run itself. Did you mean {runs[-1].parent}?")
        return InputError(key, name, "contains no run (no config.yaml). Give the folder of a run.")
    near = [*others]
    with contextlib.suppress(OSError):
        near += [str(folder.parent / neighbour) for neighbour in sorted(os.listdir(folder.parent))]
    advice = did_you_mean(str(folder), near, otherwise="give the folder of a run.")
    return InputError(key, name, f"there is no such folder. {advice[0].upper()}{advice[1:]}")
