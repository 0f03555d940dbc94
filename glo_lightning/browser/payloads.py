"""Images and codes as text, as they travel between the page and its server."""

from __future__ import annotations

import base64
import contextlib
import io

import numpy as np
import torch
from torch import Tensor

from glo_lightning.errors import InputError
from glo_lightning.images import from_pixels, to_uint8


def as_url(image: Tensor) -> str:
    """Encode an image (C, H, W), uint8 or in [-1, 1], as a PNG in a data URL."""
    pixels = to_uint8(image) if image.is_floating_point() else image
    file = io.BytesIO()
    from_pixels(pixels.cpu()).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def as_text(code: Tensor) -> str:
    """Encode a code (D,) as its floats in base64."""
    return base64.b64encode(code.detach().cpu().float().numpy().tobytes()).decode()


def from_text(text: str, latent_dim: int) -> Tensor:
    """Decode what ``as_text`` wrote; InputError for other text, and for a code of another dimension."""
    numbers = np.empty(0, np.float32)
    with contextlib.suppress(ValueError):
        numbers = np.frombuffer(base64.b64decode(text, validate=True), np.float32)
    if numbers.shape != (latent_dim,) or not np.isfinite(numbers).all():
        raise InputError("code", text[:20], f"is not a code. Give {latent_dim} finite floats in base64.")
    return torch.from_numpy(numbers.copy())
