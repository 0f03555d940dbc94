"""A thousand files of each format, damaged at random places, are an image or an InputError, in bounded memory."""

import io
import resource
import time

import numpy as np
import pytest
from conftest import encode
from image_sets import write_idx
from PIL import Image, features

from glo_lightning.data.source import read_image
from glo_lightning.data.sources.find import open_source
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat, NotAnImageError, decode_image

PICTURES = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"] + (["AVIF"] if features.check("avif") else [])
MAX_BYTES = 1 << 30  # memory that a damaged file may take
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Overwrites bytes at random places, among them the header, and truncates some files."""
    changed = bytearray(content)
    for place in random.integers(0, len(changed), random.integers(1, 12)):
        changed[place] = random.integers(0, 256)
    start = int(random.integers(0, min(64, len(changed))))
    changed[start : start + 4] = random.bytes(4) if random.random() < 0.5 else changed[start : start + 4]
    return bytes(changed[: random.integers(1, len(changed))] if random.random() < 0.25 else changed)


def outcomes(content: bytes, read, times: int = 1000) -> set:
    """What ``read`` makes of damaged content: the shapes of images, and the number of lines of error messages."""
    random, found = np.random.default_rng(0), set()
    for _ in range(times):
        try:
            found.add(read(damaged(content, random)).shape)
        except (InputError, NotAnImageError) as error:
            found.add(len(str(error).splitlines()))
    return found


@pytest.fixture(autouse=True)
def in_time_and_memory():
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_BYTES
    assert time.monotonic() - start < 120


@pytest.mark.parametrize("file_format", PICTURES)
def test_damaged_pictures(file_format):
    ramp = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)
    whole = encode(np.stack([ramp, 2 * ramp, 255 - ramp], -1), file_format)
    found = outcomes(whole, lambda content: decode_image(content, ImageFormat(32)))
    assert {1} <= found <= {(3, 32, 32), 1}


WRITERS = {
    "train-images-idx3-ubyte": lambda path, images: write_idx(path, images),
    "a.npy": lambda path, images: np.save(path, images),
    "a.npz": lambda path, images: np.savez(path, x=images, y=np.arange(6)),
    "compressed.npz": lambda path, images: np.savez_compressed(path, x=images, y=np.arange(6)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_arrays(name, tmp_path):
    WRITERS[name](tmp_path / name, np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8))

    def read(content: bytes):
        (tmp_path / name).write_bytes(content)
        source = open_source(tmp_path / name)
        return read_image(source, len(source) - 1, ImageFormat(8))

    assert outcomes((tmp_path / name).read_bytes(), read) == {(3, 8, 8), 1}


def test_damaged_tables(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    records = [{"bytes": encode(np.full((8, 8, 3), n, np.uint8)), "path": None} for n in range(6)]
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2)})
    file = io.BytesIO()
    datasets.Dataset.from_dict({"image": records, "label": [0, 1] * 3}, features=columns).to_parquet(file)

    def read(content: bytes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "train.parquet").write_bytes(content)
        return read_image(open_source(folder), 0, ImageFormat(8))

    assert outcomes(file.getvalue(), read, times=40) <= {(3, 8, 8), 1}


def test_an_image_of_too_many_pixels_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(NotAnImageError, match="of 40x40 pixels, more than 1000"):
        decode_image(encode(np.zeros((40, 40, 3), np.uint8)), ImageFormat(32))
    with pytest.raises(NotAnImageError):
        decode_image(encode(np.zeros((90, 90, 3), np.uint8)), ImageFormat(32))
