"""What a checkpoint has to be: of the format that this version writes, and of the model's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glo_lightning.errors import InputError

FORMAT_VERSION = 4  # goes up when an older checkpoint can no longer be read
READS_OLDER = "glo_lightning 0.3.0 (commit ac7fd97)"  # formats 0 to 3


def check_format(checkpoint: Mapping[str, Any]) -> None:
    """Raises InputError for a checkpoint of an older or newer format."""
    version = checkpoint.get("format_version", 0)  # the first ones did not have it
    if version < FORMAT_VERSION:
        remedy = f"the checkpoint was written by an older version. Use {READS_OLDER} to read it."
        raise InputError("format_version", version, remedy)
    if version > FORMAT_VERSION:
        remedy = f"the checkpoint was written by a newer version. Update this one, which reads {FORMAT_VERSION}."
        raise InputError("format_version", version, remedy)


def check_same_model(checkpoint: Mapping[str, Any], given: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raises InputError, naming the argument, unless a model of these arguments and state can continue from it."""
    saved = checkpoint["hyper_parameters"]
    pairs = [(key, given[key], saved[key]) for key in ("num_images", "latent_dim", "image_size", "channels")]
    for key in ("generator", "optimizer", "latent_optimizer"):
        now, was = (arguments[key]["class_path"].rpartition(".")[2] for arguments in (given, saved))
        pairs.append((key, now, was))
    for name, now in given["generator"]["init_args"].items():
        pairs.append((f"generator.{name}", now, saved["generator"]["init_args"].get(name, now)))
    for key, now, was in pairs:
        if now != was:  # num_images also where the data grew or shrank
            remedy = f"the checkpoint was made with {was}; give the flags and images that it had, or begin a new run"
            raise InputError(key, now, remedy)
    own, theirs = _shapes(state), _shapes(checkpoint["state_dict"])
    if own != theirs:
        name = min(name for name, _ in own ^ theirs)
        remedy = f"has other weights than the checkpoint's, {name} among them. Give that of the run"
        raise InputError("generator", given["generator"]["class_path"], remedy)


def _shapes(state: Mapping[str, Any]) -> set[tuple[str, Any]]:
    return {(name, getattr(value, "shape", None)) for name, value in state.items()}
