"""How much memory there is, to refuse what cannot fit before it is made."""

from __future__ import annotations

import os
from pathlib import Path

from glo_lightning.errors import InputError


def check_fits(key: str, value: object, what: str, needed: int) -> None:
    """Raises InputError for more bytes than this machine has free.

    Args:
        key, value: the argument that asks for them.
        what: what they are for.
        needed: bytes.
    """
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
