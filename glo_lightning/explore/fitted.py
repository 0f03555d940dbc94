"""What is fitted to a run, priors and an encoder; what takes long to fit is kept, so that it is fitted once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glo_lightning.data.attributes import Attributes
from glo_lightning.data.lmdb_source import cache_folder
from glo_lightning.errors import InputError
from glo_lightning.explore.encoder import Encoder
from glo_lightning.files import write_whole
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import Prior

log = logging.getLogger(__name__)

VERSION = 2  # of the files of encoders
FLOW_VERSION = 2  # of those of flows


def fit_prior(prior: Prior, codes: Tensor, attributes: Attributes | None = None, run: Path | None = None) -> Prior:
    """Fits a prior to codes (N, D); a flow that was kept for the same codes, labels and arguments is taken.

    A flow is kept in ``priors/`` of the run folder or, without one, or where it cannot be written, of the cache folder,
    as tensors alone. It stands for what it was fitted to: its name holds the digests of all that.

    Args:
        prior: still to be fitted.
        codes: of the training images.
        attributes: of these images, and of others after them; shown to a flow.
        run: the run folder.

    Raises:
        InputError: when the prior cannot be fitted to these.
    """
    began = time.monotonic()
    if not isinstance(prior, Flow):
        prior.fit(codes)
        log.info("fitted the prior to %d codes in %.1f s", len(codes), time.monotonic() - began)
        return prior
    labels, sizes = (None, []) if attributes is None else (attributes.table[: len(codes)], attributes.sizes)
    name = f"flow-{_codes_digest(codes, attributes)}-{_digest(json.dumps([FLOW_VERSION, prior.arguments]).encode())}.pt"
    folders = [folder / "priors" for folder in (run, cache_folder()) if folder is not None]
    for folder in folders:
        if (folder / name).is_file():
            try:
                state = torch.load(folder / name, map_location="cpu", weights_only=True)
                return prior.restore(state, sizes, codes.device)
            except (RuntimeError, KeyError, OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
                log.warning("%s cannot be read (%s); the flow is fitted anew", folder / name, error)
        elif any(folder.glob("flow-*.pt")) and folder.parent == run:
            log.info("the flows in %s were fitted to other codes, or otherwise", folder)
    prior.fit(codes, labels, sizes)
    kept = next((folder for folder in folders if _keep(prior, folder / name)), "nowhere: no disk took it")
    log.info("fitted the flow to %d codes in %.1f s, kept in %s", len(codes), time.monotonic() - began, kept)
    return prior


def encoder_digest(generator: str, codes: Tensor) -> str:
    """Of what an encoder is fitted to: the digest of the generator, and codes (N, D)."""
    return _digest(f"{VERSION} {generator} {_codes_digest(codes, None)}".encode())


def check_encoder(file: Path) -> None:
    """Raises InputError where ``keep_encoder`` could not write the file, which a fit would be lost for."""
    safetensors()
    if not os.access(file.parent, os.W_OK):
        raise InputError("encoder", file, "cannot be written, its folder allows none; copy the run")


def keep_encoder(encoder: Encoder, file: Path, digest: str) -> None:
    """Writes an encoder as safetensors, whole or not at all; ``digest`` stands in the metadata.

    Raises:
        InputError: where the disk does not take it, or without safetensors.
    """
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    content = safetensors().torch.save(tensors, metadata={"digest": digest})
    try:
        write_whole(file, lambda opened: opened.write(content), shared=True)
    except OSError as error:
        raise InputError("encoder", file, f"cannot be written ({error.strerror}); make room there") from error


def load_encoder(encoder: Encoder, file: Path, digest: str) -> Encoder | None:
    """Takes the weights that ``keep_encoder`` wrote; None where they were fitted to other codes or another generator.

    Raises:
        InputError: for a file that cannot be read, or without safetensors.
    """
    library = safetensors()
    remedy = "cannot be read ({}); fit another by encode.py RUN --fit_encoder, or remove it"
    try:
        with library.safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("digest") != digest:
                return None
        encoder.load_state_dict(library.torch.load_file(file))
    except (OSError, RuntimeError, library.SafetensorError) as error:
        raise InputError("encoder", file, remedy.format(" ".join(str(error).split())[:200])) from error
    return encoder.eval().requires_grad_(False)


def safetensors() -> Any:
    """The library, of the extra ``export``.

    Raises:
        InputError: where it is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError("export", "safetensors", "is not installed; pip install -e '.[export]'") from error
    return safetensors


def _keep(flow: Flow, file: Path) -> bool:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda opened: torch.save(flow.state(), opened), shared=True)
    except OSError as error:
        log.warning("%s cannot be written (%s)", file, error.strerror)
        return False
    return True


def _codes_digest(codes: Tensor, attributes: Attributes | None) -> str:
    labels = "" if attributes is None else attributes.digest(len(codes))
    return _digest(codes.detach().cpu().contiguous().numpy().tobytes() + labels.encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
