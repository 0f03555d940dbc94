"""Generative Latent Optimization (GLO) on PyTorch Lightning."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("glo_lightning needs Linux or macOS. On Windows, install it in WSL.")

if TYPE_CHECKING:
    from glo_lightning.data import LSUNDataModule
    from glo_lightning.encoding import encode
    from glo_lightning.explore.interactive import load_run
    from glo_lightning.generator import Generator
    from glo_lightning.losses import LaplacianLoss
    from glo_lightning.module import GLO

__all__ = ["GLO", "Generator", "LSUNDataModule", "LaplacianLoss", "encode", "load_run"]

# Imported on first use: whoever wants the loss alone need not wait for Lightning.
_HOMES = {
    "GLO": "module",
    "Generator": "generator",
    "LSUNDataModule": "data",
    "LaplacianLoss": "losses",
    "encode": "encoding",
    "load_run": "explore.interactive",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
