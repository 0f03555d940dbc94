"""The device to compute on."""

from __future__ import annotations

from typing import Literal

import torch

from glo_lightning.errors import InputError

Accelerator = Literal["auto", "cpu", "gpu"]


def find_device(accelerator: Accelerator) -> torch.device:
    """Find the device of ``cpu``, ``gpu`` (CUDA, else Apple's) or ``auto`` (CUDA, else the CPU).

    Raises:
        InputError: for ``gpu`` without one.
    """
    if accelerator != "cpu":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if accelerator == "gpu":
            if torch.mps.is_available():
                return torch.device("mps")
            raise InputError("accelerator", accelerator, "no GPU that torch can use is here; give cpu or auto")
    return torch.device("cpu")
