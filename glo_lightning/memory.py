"""How much memory there is on the host and on a GPU, before something large is made."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from glo_lightning.errors import InputError

log = logging.getLogger(__name__)

# Device memory of a step beside images and model: kernels and their workspace; and for each byte of RGB images the
# default generator's activations (99 bytes are kept for the backward pass), their gradients and the pyramids.
STEP_MEMORY, BATCH_MEMORY = 2 << 30, 256


def check_fits(key: str, value: object, what: str, needed: int) -> None:
    """Raises InputError, of the argument that asks for ``what``, if it needs more bytes than this machine has free."""
    free = free_memory()
    if needed > free:
        remedy = f"{what} would take {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Give less"
        raise InputError(key, value, remedy)


def free_memory() -> int:
    """Bytes that this process can take without swapping, by the system and by the limit of its container."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux: all there is
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, limit - used)


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
