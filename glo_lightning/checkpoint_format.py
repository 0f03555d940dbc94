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
    """Raises InputError, naming the argument, unless a model can continue from a checkpoint.

    Args:
        checkpoint: with the arguments and the state of its model.
        given: the arguments of the model that it is loaded into.
        state: the state of that model.
    """
    saved = checkpoint["hyper_parameters"]
    for key in ("num_images", "latent_dim", "image_size", "channels"):
        if (was := saved[key]) != given[key]:
            remedy = f"the checkpoint was made with {was}; give that, or begin a new run"
            if key == "num_images":  # of a smaller num_samples, or of data that grew or shrank
                remedy = f"rows are needed now, and the checkpoint has {was}; give the images and flags that it had"
            raise InputError(key, given[key], remedy)
    for key in ("generator", "optimizer", "latent_optimizer"):
        was, now = saved[key]["class_path"], given[key]["class_path"]
        if was.rpartition(".")[2] != now.rpartition(".")[2]:
            raise InputError(key, now, f"the checkpoint was made with {was}. Give that, or begin a new run")
    for name, value in given["generator"]["init_args"].items():
        if (was := saved["generator"]["init_args"].get(name, value)) != value:
            raise InputError(f"generator.{name}", value, f"the checkpoint was made with {was}. Give that")
    own, theirs = _shapes(state), _shapes(checkpoint["state_dict"])
    if own != theirs:
        name = min(name for name, _ in own ^ theirs)
        remedy = f"has other weights than the checkpoint's, {name} among them. Give that of the run"
        raise InputError("generator", given["generator"]["class_path"], remedy)


def _shapes(state: Mapping[str, Any]) -> set[tuple[str, Any]]:
    return {(name, getattr(value, "shape", None)) for name, value in state.items()}
