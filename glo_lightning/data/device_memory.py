"""Whether the decoded images fit into a GPU's memory beside a step of the training."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# Device memory of a step beside images and model: kernels and their workspace; and for each byte of RGB images the
# default generator's activations (99 bytes are kept for the backward pass), their gradients and the pyramids.
STEP_MEMORY, BATCH_MEMORY = 2 << 30, 256


def fits_on_gpu(images: Tensor, device: torch.device, batch_size: int) -> bool:
    """Returns whether a GPU that holds the model has room for images (N, C, H, W) and a step, and logs the sizes."""
    if device.type != "cuda":
        return False
    free = torch.cuda.mem_get_info(device)[0]
    step = STEP_MEMORY + BATCH_MEMORY * batch_size * 3 * images.shape[-1] ** 2
    fits = images.nbytes + step <= free
    message = "images stay on the %s: they take %.1f GB, a step up to %.1f, and the device has %.1f"
    sizes = [size / 1e9 for size in (images.nbytes, step, free)]
    log.info(message, "device" if fits else "host", *sizes)
    return fits
