"""Codes on the disk: a ``.npy`` and, beside it, whose they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glo_lightning.errors import InputError
from glo_lightning.files import write_json, write_whole

log = logging.getLogger(__name__)


def save_codes(path: Path, codes: Tensor, digest: str) -> None:
    """Writes codes (M, D) as float32, and beside them ``<path>.json`` with the digest of their run.

    Raises:
        OSError: when the disk does not take it.
    """
    path = path.absolute()
    write_whole(path, lambda file: np.save(file, codes.cpu().numpy(), allow_pickle=False))
    write_json(about_file(path), {"run": digest})


def load_codes(path: Path, latent_dim: int, digest: str) -> Tensor:
    """Codes (M, D), float32; a file of one code may be (D,). Without a digest beside it the shape alone is checked.

    Raises:
        InputError: for what is no such file, or belongs to another run.
    """
    try:
        codes = np.load(path, allow_pickle=False)
        about = json.loads(about_file(path).read_text()) if about_file(path).is_file() else None
    except (OSError, ValueError, EOFError) as error:
        raise InputError("codes", path, f"cannot be read as codes ({error}); give a .npy of them") from error
    if not isinstance(codes, np.ndarray) or codes.dtype.kind != "f" or not np.isfinite(codes).all():
        raise InputError("codes", path, "holds no finite floats; give a .npy of codes")
    if codes.shape[-1:] != (latent_dim,) or codes.ndim > 2 or not len(codes):
        remedy = f"is of shape {codes.shape}, codes of this run are (M, {latent_dim}); give its own"
        raise InputError("codes", path, remedy)
    if about is None:
        log.info("%s has no digest beside it: that these codes are of this run is taken on trust", path)
    elif not isinstance(about, dict) or about.get("run") != digest:
        raise InputError("codes", path, "was saved from another run, or before it went on; give that run")
    return torch.from_numpy(codes.reshape(-1, latent_dim).astype(np.float32))


def about_file(path: Path) -> Path:
    """The file that says whose codes ``path`` holds."""
    return path.with_name(f"{path.name}.json")
