"""Makes cartoon faces with known attributes: python scripts/make_faces.py OUTPUT [--num 4096] [--holdout 1000]

OUTPUT is an LMDB of lossless WebP and attributes.csv beside it. Its keys sort the training faces first, then the
held-out ones, so that --data.holdout takes these: --holdout random faces, then --unseen ones that combine what no
training face combines: 5 % of the pairs of head and face, and two pairs of glasses and beard. The same arguments make
the same faces, fewer training faces are a prefix, and no two faces have the same pixels.

The faces are Open Peeps by Pablo Stanley (CC0 1.0) as DiceBear draws them. It needs Node.js from 18 on and, beside this
project's README,
npm install --no-save --no-package-lock @dicebear/core@9.4.3 @dicebear/collection@9.4.3 @resvg/resvg-js@2.6.2
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
from PIL import Image
from tqdm import tqdm

from glo_lightning.errors import OneLineParser
from glo_lightning.files import whole_folder, write_text
from glo_lightning.streams import streams_may_close

PROGRAM = Path(__file__).with_name("faces.mjs")
PACKAGES = "@dicebear/core@9.4.3 @dicebear/collection@9.4.3 @resvg/resvg-js@2.6.2"
OPTIONS = {"glasses": "accessories", "beard": "facialHair", "skin": "skinColor", "clothes": "clothingColor"}
OPTIONS |= {"background": "backgroundColor", "contrast": "headContrastColor"}  # DiceBear's names, where they are others
BLOCK = 256  # requests under way, which fit into a pipe


def withheld(face: dict[str, str]) -> bool:
    """Whether these attributes are combined by no training face: one in twenty pairs of head and face, and two more."""
    pair = hashlib.sha1(f"{face['head']} {face['face']}".encode()).digest()
    return pair[0] % 20 == 0 or (face["glasses"], face["beard"]) in WITHHELD_GLASSES


WITHHELD_GLASSES = {("sunglasses", "full"), ("glasses2", "moustache1")}


class Artist:
    """The Node program, asked in blocks: it draws the next ones while Python compresses the last."""

    def __init__(self, options: dict[str, Any], moved: bool, size: int):
        self.options, self.moved, self.size = options, moved, size

    def __enter__(self) -> Artist:
        self.errors = tempfile.TemporaryFile("w+")
        pipe: Any = subprocess.PIPE
        try:
            self.node = subprocess.Popen(["node", PROGRAM], stdin=pipe, stdout=pipe, stderr=self.errors)
        except FileNotFoundError:
            self.errors.close()
            sys.exit("node: was not found; install Node.js 18 or later, and then the packages that --help names")
        return self

    def __exit__(self, *_: object) -> None:
        self.node.kill()  # answers that nobody wants any more may be on their way
        self.node.communicate()
        self.errors.close()

    def attributes(self, seeds: list[str]) -> list[dict[str, str]]:
        """What the faces of these seeds would show."""
        return [face for face, _ in self._ask(seeds, 0)]

    def faces(self, seeds: list[str]) -> Iterator[tuple[dict[str, str], bytes]]:
        """Attributes and RGBA pixels of the faces of these seeds."""
        return self._ask(seeds, self.size)

    def _ask(self, seeds: list[str], size: int) -> Iterator[tuple[dict[str, str], bytes]]:
        asked = [{"seed": seed, "options": self.options | self._move(seed), "size": size} for seed in seeds]
        questions, answers = self.node.stdin, self.node.stdout
        assert questions is not None
        assert answers is not None
        with contextlib.suppress(BrokenPipeError):  # what it said follows below
            questions.write("".join(json.dumps(line) + "\n" for line in asked).encode())
            questions.flush()
        for _ in seeds:
            line, pixels = answers.readline(), answers.read(4 * size * size)
            if not line or len(pixels) != 4 * size * size:
                self._give_up()
            yield json.loads(line), pixels

    def _move(self, seed: str) -> dict[str, int]:
        """Where a moved face lies: turned by up to 15 degrees, 85 to 115 % large, shifted by up to 8 %."""
        if not self.moved:
            return {}
        angle, scale, right, down = hashlib.sha1(f"moved {seed}".encode()).digest()[:4]
        return {
            "rotate": (angle % 31 - 15) % 360,
            "scale": 85 + scale % 31,
            "translateX": right % 17 - 8,
            "translateY": down % 17 - 8,
        }

    def _give_up(self) -> None:
        self.node.wait()
        self.errors.seek(0)
        said = self.errors.read()
        if "ERR_MODULE_NOT_FOUND" in said or "Cannot find package" in said:
            command = f"npm install --no-save --no-package-lock {PACKAGES}"
            sys.exit(f"{PROGRAM.name}: its packages were not found; in {PROGRAM.parents[1]} run {command}")
        sys.exit(f"{PROGRAM.name}: {' '.join(said.split()) or 'ended early'}; it needs Node.js 18 or later")


def draw(artist: Artist, part: str, seen: set[bytes], combined: bool) -> Iterator[tuple[dict[str, str], bytes] | None]:
    """Faces of a part, RGBA, without end: those that are, or are not, withheld combinations; None for a repeat.

    Args:
        artist: draws them.
        part: names the sequence of seeds.
        seen: digests of the pixels of faces that are there already; new ones are added.
        combined: whether withheld combinations are wanted, or the others.
    """
    for block in itertools.count():
        names = (f"{part} {number}" for number in range(block * BLOCK, (block + 1) * BLOCK))
        seeds = [hashlib.sha1(name.encode()).hexdigest() for name in names]  # DiceBear draws alike for seeds like 1, 2
        if combined:  # rare
            seeds = [s for s, face in zip(seeds, artist.attributes(seeds), strict=True) if withheld(face)]
        for face, pixels in artist.faces(seeds):
            if withheld(face) != combined and not artist.options:
                continue
            digest = hashlib.sha256(pixels).digest()
            yield None if digest in seen else (face, pixels)
            seen.add(digest)


def write_faces(folder: Path, artist: Artist, sizes: dict[str, int]) -> int:
    """Writes data.mdb and attributes.csv; returns how many repeats were skipped."""
    table, repeats, seen = io.StringIO(), 0, set[bytes]()
    rows = csv.writer(table, lineterminator="\n")
    total = sum(sizes.values())
    # a sparse file is as large as what is written; synced once, at the end
    with (
        lmdb.open(os.fspath(folder), map_size=1 << 40, sync=False) as environment,
        tqdm(total=total, unit=" faces") as bar,
    ):
        for number, (part, size) in enumerate(sizes.items()):
            made = 0
            with artist, environment.begin(write=True) as transaction:
                faces = draw(artist, part, seen, combined=part == "unseen")
                while made < size:
                    drawn = next(faces)
                    if drawn is None:
                        repeats += 1
                        continue
                    face, pixels = drawn
                    if not made and not number:
                        rows.writerow(["key", *face])
                    key = f"{number:x}{made:07x}"
                    record = io.BytesIO()
                    image = Image.frombytes("RGBA", (artist.size, artist.size), pixels).convert("RGB")
                    image.save(record, "WEBP", lossless=True, quality=50)
                    transaction.put(key.encode(), record.getvalue(), append=True)
                    rows.writerow([key, *face.values()])
                    made += 1
                    bar.update()
        environment.sync(True)
    (folder / "lock.mdb").unlink()
    write_text(folder / "attributes.csv", table.getvalue())
    return repeats


@streams_may_close()
def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("output", type=Path, help="the LMDB folder to make")
    parser.add_argument("--num", type=int, default=4096, help="training faces")
    parser.add_argument("--holdout", type=int, default=0, help="random faces after them")
    parser.add_argument("--unseen", type=int, default=0, help="faces of combinations that no training face has")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--moved", action="store_true", help="turns, scales and shifts each face at random")
    parser.add_argument("--given", nargs="+", default=[], metavar="NAME=VALUE", help="every face has these attributes")
    arguments = parser.parse_args()
    sizes = {"train": arguments.num, "holdout": arguments.holdout, "unseen": arguments.unseen}
    if arguments.output.exists():
        sys.exit(f"{arguments.output}: exists already; give another output, or remove it")
    if arguments.num < 1 or min(sizes.values()) < 0 or max(sizes.values()) > 16**7 or not 8 <= arguments.size <= 1024:
        sys.exit(f"--num {arguments.num} --size {arguments.size}: give at least one face, of 8 to 1024 pixels")
    options: dict[str, Any] = {}
    for given in arguments.given:
        name, _, value = given.partition("=")
        key = OPTIONS.get(name, name)
        options[key] = [value]
        if name in ("glasses", "beard", "mask"):
            options[f"{key}Probability"] = 100
    try:
        with whole_folder(arguments.output) as folder:
            repeats = write_faces(folder, Artist(options, arguments.moved, arguments.size), sizes)
    except (lmdb.DiskError, OSError) as error:
        sys.exit(f"{arguments.output}: cannot be written ({error})")
    print(f"{arguments.output}: {sum(sizes.values())} faces, {repeats} repeats skipped")


if __name__ == "__main__":
    main()
