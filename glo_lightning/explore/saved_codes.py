"""Codes in files: a ``.npy``, and beside it the digest of their run."""

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
    """Write codes (M, D) as float32, and ``<path>.json`` with the digest of their run.

    Raises:
        OSError: when the disk fails.
    """
    path = path.absolute()
    write_whole(path, lambda file: np.save(file, codes.cpu().numpy(), allow_pickle=False))
    write_json(about_file(path), {"run": digest})


def load_codes(path: Path, latent_dim: int, digest: str) -> Tensor:
    """Load codes (M, D), float32; a file of one code may be (D,). Without a digest only the shape is checked.

    Raises:
        InputError: for a file without codes, or with those of another run.
    """
    try:
        codes = np.load(path, allow_pickle=False)
        about = json.loads(about_file(path).read_text()) if about_file(path).is_file() else None
    except (OSError, ValueError, EOFError) as error:
        raise InputError("codes", path, f"cannot be read as codes ({error}). Give a .npy of them.") from error
    if not isinstance(codes, np.ndarray) or codes.dtype.kind != "f" or not np.isfinite(codes).all():
        raise InputError("codes", path, "does not hold finite floats. Give a .npy of codes.")
    if codes.shape[-1:] != (latent_dim,) or codes.ndim > 2 or not len(codes):
        remedy = f"is of shape {codes.shape}, codes of this run are (M, {latent_dim}). Give such codes."
        raise InputError("codes", path, remedy)
    if about is None:
        log.info("%s has no digest beside it: its codes may be another run's", path)
    elif not isinstance(about, dict) or about.get("run") != digest:
        raise InputError("codes", path, "was saved from another run, or before it was continued. Give that run.")
    return torch.from_numpy(codes.reshape(-1, latent_dim).astype(np.float32))


def about_file(path: Path) -> Path:
    """The file with the digest of the run whose codes ``path`` holds."""
    return path.with_name(f"{path.name}.json")
