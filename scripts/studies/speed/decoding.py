"""Times the cache against reading and Pillow alone: python scripts/studies/speed/decoding.py ROOT [--num 12000]

ROOT is anything that --data.root takes. "read" gets each record and drops it; "Pillow" decodes it to RGB at its full
size; "cache" is what the first run does: read, decode, resize, crop, write and sync. Each uses all cores; they take
turns, and the best round counts.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import StudyParser

from glo_lightning.data.source import HeadSource, Source, channels_of
from glo_lightning.data.sources.find import open_source
from glo_lightning.data.store import CachedDataset
from glo_lightning.data.subprocesses import run_in_subprocesses
from glo_lightning.images import ImageFormat


def read(source: Source, rows: range) -> None:
    for row in rows:
        source.read(row)


def decode(source: Source, rows: range) -> None:
    for row in rows:
        record = source.read(row)
        if not isinstance(record, torch.Tensor):
            (Image.open(io.BytesIO(record)) if isinstance(record, bytes) else record).convert("RGB")


def in_parallel(work: partial[None], num_images: int) -> None:
    cores = os.cpu_count() or 1
    if any(run_in_subprocesses([partial(work, range(first, num_images, cores)) for first in range(cores)])):
        raise RuntimeError(f"{work.func.__name__} ended early")


def fill_cache(source: Source, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.environ["XDG_CACHE_HOME"] = folder
        CachedDataset(source, ImageFormat(size, channels_of(source)))


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("root", help="images, as --data.root takes them")
    parser.add_argument("--num", type=int, default=12_000, help="largest number of images")
    parser.add_argument("--size", type=int, default=64, help="height and width of the cached images")
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds")
    options = parser.parse_args()
    source = open_source(options.root)
    source = HeadSource(source, min(options.num, len(source)))
    work = {
        "read": partial(in_parallel, partial(read, source), len(source)),
        "Pillow": partial(in_parallel, partial(decode, source), len(source)),
        "cache": partial(fill_cache, source, options.size),
    }
    best = dict.fromkeys(work, 0.0)
    for _ in range(options.rounds):
        for name, action in work.items():
            began = time.perf_counter()
            action()
            best[name] = max(best[name], len(source) / (time.perf_counter() - began))
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in best.items())
    print(f"{len(source)} images, {os.cpu_count()} cores: {rates} images/s")


if __name__ == "__main__":
    main()
