"""Makes crops of photographs: python scripts/make_photos.py OUTPUT [PHOTOGRAPHS...] [--num 20000] [--holdout 500]

PHOTOGRAPHS are image files, or folders of them; without any, the 50 of scripts/photographs.csv, which come with
packages: apt install plasma-workspace-wallpapers mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
and pip install scikit-learn scikit-image. --root is a folder where Debian's packages are unpacked, not installed.

OUTPUT is a folder like LSUN's: photographs_train_lmdb, and photographs_val_lmdb with crops of other photographs, one in
six by the digests of their files. A crop is a square at a random place, of a random size from --size pixels to the
photograph's shorter side, reduced to --size. Large photographs have more crops. photographs.csv lists the photographs.
The same files and arguments make the same crops, and OUTPUT appears whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import itertools
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb
from PIL import Image
from tqdm import tqdm

from glo_lightning.data.image_files import find_images
from glo_lightning.data.sources.folder import path_text
from glo_lightning.errors import InputError, NotAnImageError, OneLineParser
from glo_lightning.files import whole_folder, write_text
from glo_lightning.images import open_image, reading_image, to_rgb
from glo_lightning.streams import streams_may_close

LIST = Path(__file__).with_name("photographs.csv")


class Photograph(NamedTuple):
    """An image file: the digest of its content, which also draws its crops, and the pixels of its shorter side."""

    digest: str
    side: int
    file: Path
    package: str
    author: str
    licence: str


def packaged_photographs(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Yields the files of the packages, each with its package, author and licence.

    Raises:
        InputError: for a file that is not there.
    """
    for row in csv.DictReader(LIST.read_text(encoding="utf-8").splitlines()):
        file, package, author, licence = row.values()
        from_debian, path = file.startswith("usr/"), root / file
        if not from_debian and (module := importlib.util.find_spec(file.partition("/")[0])) and module.origin:
            path = Path(module.origin).parents[1] / file
        if not path.is_file():
            command = f"{'apt' if from_debian else 'pip'} install {package}"
            raise InputError("photographs", path, f"is not there. Run {command}, or give folders of photographs.")
        yield path, package, author, licence


def open_photograph(file: Path) -> Image.Image:
    """Opens a photograph as RGB; NotAnImageError or OSError for a file that cannot be read."""
    with reading_image(), open_image(file.read_bytes()) as source:
        return to_rgb(source)


def read_photographs(files: Iterator[tuple[Path, str, str, str]], size: int) -> list[Photograph]:
    """Returns the photographs in the order of their digests, without copies; those that cannot be used are reported."""
    photographs: dict[str, Photograph] = {}
    for file, *details in files:
        try:
            side = min(open_photograph(file).size)
            digest = hashlib.sha1(file.read_bytes()).hexdigest()
        except (OSError, NotAnImageError) as error:
            print(f"{path_text(file)}: left out, not a readable image ({error})", file=sys.stderr)
            continue
        if side >= size:
            photographs.setdefault(digest, Photograph(digest, side, file, *details))
        else:
            print(f"{path_text(file)}: left out, its shorter side of {side} is below --size {size}", file=sys.stderr)
    return sorted(photographs.values())


def crops(photograph: Photograph, num: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields ``num`` crops of a photograph, each as its key and a JPEG of ``size`` pixels square."""
    image, generator = open_photograph(photograph.file), random.Random(photograph.digest)
    for number in range(num):
        side = generator.randint(size, photograph.side)
        left, top = (generator.randint(0, extent - side) for extent in image.size)
        box = (left, top, left + side, top + side)
        crop, record = image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0), io.BytesIO()
        crop.save(record, "JPEG", quality=95)
        yield hashlib.sha1(f"{photograph.digest} {number}".encode()).hexdigest().encode(), record.getvalue()


def write_crops(folder: Path, photographs: Sequence[Photograph], num: int, size: int) -> None:
    """Writes an LMDB of ``num`` crops, of each photograph in proportion to its side; the keys sort them at random."""
    folder.mkdir()
    sides = list(itertools.accumulate(photograph.side for photograph in photographs))
    ends = [num * side // sides[-1] for side in sides]
    # a sparse file is as large as what is written; synced once, at the end
    with (
        lmdb.open(os.fspath(folder), map_size=1 << 40, sync=False) as environment,
        tqdm(total=num, unit=" crops") as bar,
    ):
        for photograph, start, end in zip(photographs, [0, *ends], ends, strict=False):
            with environment.begin(write=True) as transaction:
                for key, record in crops(photograph, end - start, size):
                    transaction.put(key, record)
                    bar.update()
        environment.sync(True)
    (folder / "lock.mdb").unlink()


@streams_may_close()
def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("output", type=Path, help="the folder to make")
    parser.add_argument("photographs", type=Path, nargs="*", help="image files or folders of them")
    parser.add_argument("--num", type=int, default=20000, help="training crops")
    parser.add_argument("--holdout", type=int, default=500, help="crops of the other photographs")
    parser.add_argument("--size", type=int, default=256, help="pixels of a crop's side")
    parser.add_argument("--root", type=Path, help="folder where Debian's packages are unpacked, if not /")
    arguments = parser.parse_args()
    output, num, holdout, size = arguments.output, arguments.num, arguments.holdout, arguments.size
    if output.exists():
        parser.error(f"{output}: exists already. Give another output, or remove it")
    if min(num, holdout) < 1 or not 8 <= size <= 1024:
        parser.error(f"--num {num} --holdout {holdout} --size {size}: give a crop or more of each, of 8 to 1024 pixels")
    if arguments.photographs and arguments.root:
        parser.error(f"--root {arguments.root}: has no effect with PHOTOGRAPHS. Leave one of them out")
    root = arguments.root or Path("/")
    try:
        given = ((file, "", "", "") for file in find_images(arguments.photographs))
        photographs = read_photographs(given if arguments.photographs else packaged_photographs(root), size)
    except InputError as error:
        parser.error(str(error))
    if len(photographs) < 2:
        parser.error(f"{len(photographs)} photographs: too few of {size} pixels or more. Give 2, one to hold out")
    held_out = photographs[::6]
    parts = {"train": [photograph for photograph in photographs if photograph not in held_out], "val": held_out}
    try:
        with whole_folder(output) as folder:
            table = io.StringIO()
            rows = csv.writer(table, lineterminator="\n")
            rows.writerow(["part", *Photograph._fields])
            for part, chosen in parts.items():
                write_crops(folder / f"photographs_{part}_lmdb", chosen, num if part == "train" else holdout, size)
                rows.writerows([part, p.digest, p.side, path_text(p.file), *p[3:]] for p in chosen)
            write_text(folder / "photographs.csv", table.getvalue())
    except (lmdb.DiskError, OSError) as error:
        parser.error(f"{output}: cannot be written ({error}). Give another output")
    print(f"{output}: {num} crops of {len(parts['train'])} photographs, {holdout} held out of {len(held_out)} others")


if __name__ == "__main__":
    main()
