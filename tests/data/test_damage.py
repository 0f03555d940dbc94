"""A thousand files of each format, damaged at random places: an image or one line of ours, in bounded memory."""

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
MOST = 1 << 30  # bytes that a damaged file may take


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """With bytes overwritten at random, cut off, lengthened, or all of it."""
    changed = bytearray(content)
    for place in random.integers(0, len(changed), random.integers(1, 12)):
        changed[place] = random.integers(0, 256)
    start = int(random.integers(0, min(64, len(changed))))  # headers are where the harm is done
    changed[start : start + 4] = random.bytes(4) if random.random() < 0.5 else changed[start : start + 4]
    return bytes(changed[: random.integers(1, len(changed))] if random.random() < 0.25 else changed)


@pytest.fixture(autouse=True)
def in_time_and_memory():
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST
    assert time.monotonic() - began < 120


@pytest.mark.parametrize("file_format", PICTURES)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it mends
def test_damaged_pictures(file_format):
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)
    whole = encode(np.stack([ramp, 2 * ramp, 255 - ramp], -1), file_format)
    outcomes = set()
    for _ in range(1000):
        try:
            outcomes.add(decode_image(damaged(whole, random), ImageFormat(32)).shape)
        except NotAnImageError as error:
            outcomes.add(len(str(error).splitlines()))
    assert outcomes <= {(3, 32, 32), 1}
    assert 1 in outcomes


def write(kind: str, path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    if kind == "idx":
        write_idx(path, images)
    elif kind == "npy":
        np.save(path, images)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(path, x=images, y=np.arange(6))


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "idx"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_arrays(kind, tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / ("train-images-idx3-ubyte" if kind == "idx" else f"a.{'npy' if kind == 'npy' else 'npz'}")
    write(kind, path)
    whole, outcomes = path.read_bytes(), set()
    for _ in range(1000):
        path.write_bytes(damaged(whole, random))
        try:
            source = open_source(path)
            outcomes.add(read_image(source, len(source) - 1, ImageFormat(8)).shape)
        except InputError as error:
            outcomes.add(len(str(error).splitlines()))
    assert outcomes == {(3, 8, 8), 1}


@pytest.mark.filterwarnings("ignore")
def test_damaged_tables(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    random = np.random.default_rng(0)
    records = [{"bytes": encode(np.full((8, 8, 3), n, np.uint8)), "path": None} for n in range(6)]
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2)})
    table = datasets.Dataset.from_dict({"image": records, "label": [0, 1] * 3}, features=columns)
    file = io.BytesIO()
    table.to_parquet(file)
    outcomes = set()
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "train.parquet").write_bytes(damaged(file.getvalue(), random))
        try:
            source = open_source(folder)
            outcomes.add(read_image(source, 0, ImageFormat(8)).shape)
        except InputError as error:
            outcomes.add(len(str(error).splitlines()))
    assert outcomes <= {(3, 8, 8), 1}


def test_an_image_of_too_many_pixels_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with (
        pytest.raises(NotAnImageError, match="of 40x40 pixels, more than 1000"),
        pytest.warns(Image.DecompressionBombWarning),
    ):
        decode_image(encode(np.zeros((40, 40, 3), np.uint8)), ImageFormat(32))
    with pytest.raises(NotAnImageError):
        decode_image(encode(np.zeros((90, 90, 3), np.uint8)), ImageFormat(32))
