"""What older versions had: arguments and checkpoints as they were saved, read as they are now."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from glo_lightning.errors import InputError

log = logging.getLogger(__name__)

FORMAT_VERSION = 3  # of the checkpoints; 0 is one that does not say; up to 2 the shipped images were emoji
LAST_WITH_THEM = "glo_lightning 0.1.0 (commit e982c3f)"

# Flags by their old names; in a configuration the parts between dots are sections.
RENAMED = {
    "on_nonfinite": "on_bad_loss",
    "checkpoint.on_error": "checkpoint.on_bad_write",
    "data.on_error": "data.on_bad_record",
}
GONE = {old: f"it is --{new} now" for old, new in RENAMED.items()} | {
    "model.start_rows": "the initial codes of the first 16,384 rows are always kept",
    "model.latent_from": f"it did not pay; the last version to have it is {LAST_WITH_THEM}",
}


def lost_option(arguments: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The first option with an effect that GLO no longer has, and its value, of the arguments of an old run."""
    if arguments.get("latent_from", 0.0) != 0.0:
        return "latent_from", arguments["latent_from"]
    if arguments.get("latent_optimizer") == "adam":
        return "latent_optimizer", "adam"
    return None


def current_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """GLO's arguments as they are called now, of those that any version saved; options that it lost are left out."""
    current = dict(arguments)
    gone: dict[str, Any] = {key: current.pop(key) for key in ("latent_from", "start_rows") if key in current}
    if current.get("latent_optimizer") == "adam":
        gone["latent_optimizer"], current["latent_optimizer"] = "adam", "sgd"
    if gone:
        log.info("left out %s, which GLO no longer has", ", ".join(f"{key} {value}" for key, value in gone.items()))
    if gone and current.get("loss", "lap_l1") != "lap_l1":
        # They stood in every resolved configuration, used or not.
        for key in ("levels", "level_weights", "l2_weight"):
            current[key] = None
    return current


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A whole configuration, as a YAML file has it, of any version, as it would be written now."""
    current = copy.deepcopy(dict(config))
    for old, new in RENAMED.items():
        section, _, key = old.rpartition(".")
        part = current.get(section) if section else current
        if isinstance(part, dict) and key in part:
            part[new.rpartition(".")[2]] = part.pop(key)
    if isinstance(current.get("model"), Mapping):
        current["model"] = current_arguments(current["model"])
    return current


def check_same_shape(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises InputError, naming the argument, unless a model as given can hold a checkpoint as saved."""
    later = {"channels": 3, "generator": "dcgan", "generator_optimizer": "sgd"}  # arguments that were not always there
    for key in ("num_images", "latent_dim", "image_size", "width", *later):
        was = saved.get(key, later.get(key))
        if was != given[key]:
            remedy = f"the checkpoint was made with {was}; give that, or begin a new run"
            if key == "num_images":  # of a smaller num_samples, or of data that grew or shrank
                remedy = f"rows are needed now, and the checkpoint has {was}; give the images and flags that it had"
            raise InputError(key, given[key], remedy)


def upgrade_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Brings a checkpoint of an older format to the present one, in place.

    Raises:
        InputError: for a later format.
    """
    version = checkpoint.get("format_version", 0)
    if version > FORMAT_VERSION:
        remedy = f"the checkpoint is newer than this program, which reads {FORMAT_VERSION}; update the program"
        raise InputError("format_version", version, remedy)
    if version < 2:
        initial = checkpoint["state_dict"].pop("start")
        checkpoint["initial_codes"] = initial
        checkpoint["initialised"] = checkpoint["started"] if version else not bool(initial[0, 0].isnan())
        checkpoint["holdout_codes"] = checkpoint.pop("held_out", None)
        checkpoint.setdefault("epoch_loss", [0.0, 0.0])
        checkpoint["lr_schedulers"] = []
    checkpoint["format_version"] = FORMAT_VERSION


def refuse_emoji(version: int, root: str | None, key: str, where: object) -> None:
    """Raises InputError for a run whose images were the emoji that came with the package.

    Args:
        version: the format of its checkpoint.
        root: ``data.root`` as it is now.
        key, where: what names the run.
    """
    if version <= 2 and root is None:
        remedy = "was trained on the emoji that came with glo_lightning until 0.2; make them by python "
        raise InputError(key, where, f"{remedy}scripts/studies/emoji.py DIR and give --data.root DIR")
