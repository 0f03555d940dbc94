"""The environment of a run: versions, commit, command, machine, seed and data."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.digests import keys_digest

PACKAGES = ["glo_lightning", "torch", "torchvision", "pytorch-lightning", "lightning-fabric", "torchmetrics"]
PACKAGES += ["scikit-learn", "numpy", "lmdb", "pillow", "tensorboard", "jsonargparse"]


def describe_environment(seed: int | None) -> dict[str, Any]:
    """Describes everything but the data that another run must share to repeat this one, as plain values."""
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
    }


def describe_data(data: LSUNDataModule) -> dict[str, Any]:
    """Describes the data: its location, and digests of keys, attributes and a sample of the images."""
    digests = data.digests.records
    return {
        "path": str(data.source.fingerprint[0]),
        "num_images": len(data.source),
        "keys_sha256": keys_digest(data.source),
        **({"attributes_sha256": data.attributes.digest()} if data.attributes else {}),
        f"sha256_of_{len(digests)}_records": hashlib.sha256(repr(digests).encode()).hexdigest(),
    }


def _packages() -> dict[str, str]:
    """The installed versions of this package and of those that it uses."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of the package's work tree, and whether files differ from it; None without a work tree."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", os.fspath(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None
