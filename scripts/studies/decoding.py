"""Times the store against reading and Pillow alone: python scripts/studies/decoding.py ROOT [--num 12000] [--size 64]

ROOT is anything that ``--data.root`` takes. "read" gets each record and drops it; "Pillow" opens it and decodes it to
RGB at its full size; "store" is what a run does first, into an empty cache: read, decoded, resized, cropped, written
and synced. Each uses all cores; they take turns, and the best of the rounds counts.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import tempfile
import time

import torch
from PIL import Image

from glo_lightning.data.children import in_processes
from glo_lightning.data.find_source import open_source
from glo_lightning.data.source import FirstImages, Source, channels_of
from glo_lightning.data.store import StoredImages
from glo_lightning.images import ImageFormat


def read(source: Source, rows: range) -> None:
    for row in rows:
        source.read(row)


def decode(source: Source, rows: range) -> None:
    for row in rows:
        record = source.read(row)
        if not isinstance(record, torch.Tensor):
            (Image.open(io.BytesIO(record)) if isinstance(record, bytes) else record).convert("RGB")


def store(source: Source, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.environ["XDG_CACHE_HOME"] = folder
        StoredImages(source, ImageFormat(size, channels_of(source)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--num", type=int, default=12_000, help="images, at most (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of the stored images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    source = open_source(arguments.root)
    source = FirstImages(source, min(arguments.num, len(source)))
    cores = os.cpu_count() or 1
    parts = [range(first, len(source), cores) for first in range(cores)]
    ways = {
        name: [functools.partial(way, source, part) for part in parts]
        for name, way in [("read", read), ("Pillow", decode)]
    }
    ways["store"] = [functools.partial(store, source, arguments.size)]
    best: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, actions in ways.items():
            began = time.perf_counter()
            if name == "store":
                actions[0]()
            elif any(in_processes(actions)):
                raise RuntimeError(f"{name} ended early")
            rate = len(source) / (time.perf_counter() - began)
            best[name] = max(best.get(name, 0), rate)
    print(
        f"{len(source)} images, {cores} cores: "
        + ", ".join(f"{name} {rate:,.0f}" for name, rate in best.items())
        + " images/s"
    )


if __name__ == "__main__":
    main()
