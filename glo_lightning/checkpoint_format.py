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


def check_same_shape(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises InputError, naming the argument, unless a model with arguments ``given`` can hold a checkpoint's weights.

    Args:
        saved: the arguments of the checkpoint's model.
        given: the arguments of the model that it is loaded into.
    """
    for key in ("num_images", "latent_dim", "image_size", "width", "channels", "generator", "generator_optimizer"):
        if (was := saved[key]) != given[key]:
            remedy = f"the checkpoint was made with {was}; give that, or begin a new run"
            if key == "num_images":  # of a smaller num_samples, or of data that grew or shrank
                remedy = f"rows are needed now, and the checkpoint has {was}; give the images and flags that it had"
            raise InputError(key, given[key], remedy)
