"""Turns images into an LMDB of LSUN's format: glo build_lmdb OUTPUT IMAGES... [--size 256] [--lossless]

IMAGES are image files, or folders that are searched for them. The keys are digests of the files' content, so that
the first N records are a random subset. The output appears whole, or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
from pathlib import Path

import lmdb
from PIL import Image
from tqdm import tqdm

from glo_lightning.data.image_files import find_images, log_notes_of
from glo_lightning.data.sources.folder import path_text
from glo_lightning.files import whole_folder
from glo_lightning.images import NotAnImageError, open_image, reading_image, to_rgb


def encode(content: bytes, size: int, quality: int | None) -> bytes:
    """A file's content as WebP, its shorter side at most ``size`` pixels; without a quality it is lossless."""
    with reading_image(), open_image(content) as source:
        image = to_rgb(source)
    if min(image.size) > size:
        scale = size / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    record = io.BytesIO()
    image.save(record, "WEBP", quality=50 if quality is None else quality, lossless=quality is None)
    return record.getvalue()


def write_records(environment: lmdb.Environment, files: list[Path], size: int, quality: int | None) -> int:
    """Writes one record a file; returns how many could not be read, each of them reported."""
    unreadable = 0
    for file in tqdm(files, unit=" images"):
        try:
            content = file.read_bytes()
            with log_notes_of(file):
                record = encode(content, size, quality)
        except (OSError, NotAnImageError) as error:
            unreadable += 1
            tqdm.write(f"{path_text(file)}: left out, not a readable image ({error})", file=sys.stderr)
            continue
        key = hashlib.sha1(content)
        with environment.begin(write=True) as transaction:
            while not transaction.put(key.hexdigest().encode(), record, overwrite=False):
                key.update(content)  # a copy of an image that is there already keeps a record of its own
    return unreadable


def run(options: argparse.Namespace) -> None:
    if options.output.exists():
        sys.exit(f"{options.output}: exists already; give another output, or remove it")
    if options.size < 1 or not 1 <= options.quality <= 100:
        sys.exit(f"--size {options.size} --quality {options.quality}: give a size from 1, a quality from 1 to 100")
    files = find_images(options.images)
    try:
        with whole_folder(options.output) as folder:
            # a sparse file is as large as what is written; synced once, at the end
            with lmdb.open(os.fspath(folder), map_size=1 << 40, sync=False, writemap=False) as environment:
                quality = None if options.lossless else options.quality
                unreadable = write_records(environment, files, options.size, quality)
                environment.sync(True)
            if unreadable == len(files):
                sys.exit(f"{', '.join(map(str, options.images))}: no readable image; give files or folders of images")
            (folder / "lock.mdb").unlink()
    except (lmdb.DiskError, OSError) as error:
        sys.exit(f"{options.output}: cannot be written ({error})")
    print(f"{options.output}: {len(files) - unreadable} images, {unreadable} files left out")
