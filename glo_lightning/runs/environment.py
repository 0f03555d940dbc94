"""What a run was made with: versions, commit, command, machine, seed, data."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glo_lightning.data.attributes import Attributes
from glo_lightning.data.source import Source, keys_digest
from glo_lightning.errors import InputError
from glo_lightning.images import NotAnImageError, reading_image

SAMPLED_RECORDS = 1024


def describe_environment(seed: int | None, source: Source, attributes: Attributes | None = None) -> dict[str, Any]:
    """Returns what another run has to share to repeat this one, as plain values.

    Args:
        seed: of the run.
        source: of the images.
        attributes: of these images.
    """
    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "seed": seed,
        "python": platform.python_version(),
        "packages": _packages(),
        "git": _git(Path(__file__).resolve().parent),
        "machine": {
            "name": platform.node(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
        },
        "data": {
            "path": str(source.fingerprint[0]),
            "num_images": len(source),
            "keys_sha256": keys_digest(source),
            **({"attributes_sha256": attributes.digest()} if attributes else {}),
            **_records_digest(source),
        },
    }


def _records_digest(source: Source) -> dict[str, str]:
    """SHA-256 of up to 1,024 records, as they are read, evenly spaced: all of LSUN would take minutes."""
    digest, number = hashlib.sha256(), min(len(source), SAMPLED_RECORDS)
    for row in np.linspace(0, len(source) - 1, number).astype(int).tolist():
        record = _content(source, row)
        digest.update(len(record).to_bytes(8, "little") + record)
    return {f"sha256_of_{number}_records": digest.hexdigest()}


def _content(source: Source, row: int) -> bytes:
    """Encoded bytes or pixels; nothing where the record is gone, or is no image."""
    try:
        with reading_image():
            record = source.read(row)
            return record if isinstance(record, bytes) else np.asarray(record).tobytes()
    except (InputError, NotAnImageError):
        return b""


def _packages() -> dict[str, str]:
    """The installed versions of this package and of all that it requires."""
    names = ["glo_lightning", "numpy", "lightning-fabric", "torchmetrics"]
    try:
        required = importlib.metadata.requires("glo_lightning") or []
    except importlib.metadata.PackageNotFoundError:  # run from its folder, not installed
        required = ["torch", "torchvision", "pytorch-lightning", "scikit-learn", "lmdb", "pillow", "jsonargparse"]
    names += [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit that the package's folder is at, and whether files differ from it; None outside a work tree."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", os.fspath(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None
