"""The encoder of a run, saved in its folder, so that it is fitted once."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from glo_lightning.errors import InputError
from glo_lightning.explore.encoder import Encoder, fit_encoder
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_whole
from glo_lightning.priors.fitting import codes_digest, digest_of

log = logging.getLogger(__name__)

VERSION = 2  # of the file


def fit_and_save_encoder(run: TrainedRun) -> Encoder:
    """Fit an encoder to a run's codes and save it in the run folder, as safetensors.

    Raises:
        InputError: without a run folder, its images, safetensors, or a disk that takes the file.
    """
    file = encoder_file(run)
    if file is None:
        remedy = "has no run folder to save an encoder in. Give the folder of its run."
        raise InputError("run", run.checkpoint, remedy)
    library = safetensors()
    if not os.access(file.parent, os.W_OK):
        raise InputError("encoder", file, "cannot be written, its folder is read-only. Copy the run.")
    encoder = fit_encoder(run.model, run.images)
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    content = library.torch.save(tensors, metadata={"digest": _digest(run)})
    try:
        write_whole(file, lambda opened: opened.write(content), shared=True)
    except OSError as error:
        raise InputError("encoder", file, f"cannot be written ({error.strerror}). Make room there.") from error
    log.info("fitted the encoder to %d codes, saved in %s", len(run.codes), file)
    return encoder


def load_encoder(run: TrainedRun) -> Encoder | None:
    """Load the encoder that was saved with a run; None, with a warning, if it was fitted to another checkpoint.

    Raises:
        InputError: for a file that cannot be read, or without safetensors.
    """
    file = encoder_file(run)
    if file is None or not file.is_file():
        return None
    library, hparams = safetensors(), run.model.hparams
    encoder = Encoder(hparams["channels"], hparams["image_size"], run.codes.shape[1]).to(run.codes.device)
    try:
        with library.safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("digest") != _digest(run):
                message = "%s was fitted to another checkpoint and is not used. Fit one by encode.py RUN --fit_encoder."
                log.warning(message, file)
                return None
        encoder.load_state_dict(library.torch.load_file(file))
    except (OSError, RuntimeError, library.SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        remedy = f"cannot be read ({why}). Fit another by encode.py RUN --fit_encoder, or remove it."
        raise InputError("encoder", file, remedy) from error
    return encoder.eval().requires_grad_(False)


def encoder_file(run: TrainedRun) -> Path | None:
    """Where a run's encoder is saved; None without a run folder."""
    return None if run.folder is None else run.folder / "encoder.safetensors"


def _digest(run: TrainedRun) -> str:
    return digest_of(f"{VERSION} {run.digest} {codes_digest(run.codes)}".encode())


def safetensors() -> Any:
    """Import the library, which the extra ``export`` brings.

    Raises:
        InputError: where it is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError("export", "safetensors", "is not installed. Run pip install -e '.[export]'.") from error
    return safetensors
