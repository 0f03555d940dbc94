import hashlib
import pickle

import pytest
import torch
from conftest import encode, flat_image, write_lmdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glo_lightning.data.source import ConcatSource, HeadSource, StreamingDataset, key_table, keys_digest, read_image
from glo_lightning.data.sources.lmdb import LMDBSource
from glo_lightning.data.store import CachedDataset
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.binary(max_size=300) | st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=20)))
def test_random_bytes_are_an_image_or_an_error_that_is_ours(tmp_path_factory, record):
    if isinstance(record, tuple):  # an image, overwritten somewhere
        place, noise = record
        image = encode(flat_image(3))
        record = image[:place] + noise + image[place + len(noise) :]
    folder = write_lmdb(tmp_path_factory.mktemp("noise") / "lmdb", {b"key": record})
    try:
        image = read_image(LMDBSource(folder), 0, ImageFormat(32))
    except InputError:
        return
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)


class Squares:
    """A source of one's own: images of one colour, which are keyed by letters."""

    fingerprint = ("in memory", 1)

    def __len__(self) -> int:
        return 5

    def read(self, index: int) -> torch.Tensor:
        if index == 3:
            raise InputError("key", self.key(3), "is not an image")
        return torch.full((3, 8, 8), 10 * index, dtype=torch.uint8)

    def key(self, index: int) -> bytes:
        return b"abcde"[: index + 1]


def test_a_source_of_ones_own_is_streamed_and_stored():
    for images in (
        StreamingDataset(Squares(), ImageFormat(8), "skip"),
        CachedDataset(Squares(), ImageFormat(8), "skip"),
    ):
        batch, rows = images[[4, 0]]
        assert batch[:, 0, 0, 0].tolist() == [40, 0]
        assert rows.tolist() == [4, 0]
    assert StreamingDataset(Squares(), ImageFormat(8), "skip")[[2, 3]][1].tolist() == [2]
    assert StreamingDataset(Squares(), ImageFormat(8), "skip")[[3]][0].shape == (0, 3, 8, 8)
    for images in (StreamingDataset, CachedDataset):
        with pytest.raises(InputError, match="abcd"):
            _ = images(Squares(), ImageFormat(8))[[3]]


def test_keys_of_any_source_are_those_of_an_lmdb_with_the_same(tmp_path):
    lmdb = LMDBSource(write_lmdb(tmp_path / "lmdb", {Squares().key(row): encode(flat_image(0)) for row in range(5)}))
    assert key_table(Squares()).tolist() == key_table(lmdb).tolist()
    assert keys_digest(Squares(), 3) == keys_digest(lmdb, 3) != keys_digest(lmdb)
    lengths = b"".join(length.to_bytes(2, "little") for length in (1, 2, 3))
    assert keys_digest(lmdb, 3) == hashlib.sha256(lengths + b"a\0\0ab\0abc").hexdigest()


def test_workers_get_the_name_of_the_mapped_keys(flat_lmdb):
    source = HeadSource(LMDBSource(flat_lmdb), 7)
    assert len(pickle.dumps(source)) < 2000
    assert [pickle.loads(pickle.dumps(source)).key(row) for row in range(7)] == [source.key(row) for row in range(7)]


def test_joined_sources_follow_each_other(flat_lmdb, tmp_path):
    other = write_lmdb(tmp_path / "lmdb", {b"a": encode(flat_image(77))})
    joined = ConcatSource([HeadSource(LMDBSource(flat_lmdb), 3), LMDBSource(other), Squares()])
    assert len(joined) == 9
    assert [joined.key(row) for row in (0, 2, 3, 4, 8)] == [b"%040x" % 0, b"%040x" % 2, b"a", b"a", b"abcde"]
    assert [int(read_image(joined, row, ImageFormat(8))[0, 0, 0]) for row in (2, 3, 6, 8)] == [2, 77, 20, 40]
    assert CachedDataset(HeadSource(joined, 6), ImageFormat(8)).images[:, 0, 0, 0].tolist() == [0, 1, 2, 77, 0, 10]
    with pytest.raises(InputError, match="give 1 to 9"):
        HeadSource(joined, 10)


def test_pixels_of_any_size_grey_or_not_become_rgb_of_the_size_asked_for():
    class Greys(Squares):
        def read(self, index):
            return torch.full((1, 5, 9), 50 + index, dtype=torch.uint8)

    assert read_image(Greys(), 2, ImageFormat(8)).unique().tolist() == [52]
    assert read_image(Greys(), 2, ImageFormat(8)).shape == (3, 8, 8)
