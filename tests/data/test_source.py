import hashlib

import pytest
import torch
from conftest import encode, flat_image, write_lmdb

from glo_lightning.data.digests import key_table, keys_digest
from glo_lightning.data.source import ConcatSource, HeadSource, read_image
from glo_lightning.data.sources.lmdb import LMDBSource
from glo_lightning.data.store import CachedDataset, StreamingDataset
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat


class Squares:
    """A custom source: images of one colour, keyed by letters, of which the fourth is invalid."""

    fingerprint = ("in memory", 1)

    def __len__(self) -> int:
        return 5

    def read(self, index: int) -> torch.Tensor:
        if index == 3:
            raise InputError("key", self.key(3), "is not an image")
        return torch.full((3, 8, 8), 10 * index, dtype=torch.uint8)

    def key(self, index: int) -> bytes:
        return b"abcde"[: index + 1]


@pytest.mark.parametrize("dataset", [StreamingDataset, CachedDataset])
def test_a_custom_source_is_streamed_and_cached(dataset):
    images, rows = dataset(Squares(), ImageFormat(8), "skip")[[4, 0]]
    assert (images[:, 0, 0, 0].tolist(), rows.tolist()) == ([40, 0], [4, 0])
    with pytest.raises(InputError, match="abcd"):
        _ = dataset(Squares(), ImageFormat(8))[[3]]


def test_a_streamed_batch_leaves_out_invalid_images():
    dataset = StreamingDataset(Squares(), ImageFormat(8), "skip")
    assert dataset[[2, 3]][1].tolist() == [2]
    assert dataset[[3]][0].shape == (0, 3, 8, 8)


def test_sources_with_the_same_keys_have_the_same_digest(tmp_path):
    lmdb = LMDBSource(write_lmdb(tmp_path / "lmdb", {Squares().key(row): encode(flat_image(0)) for row in range(5)}))
    assert key_table(Squares()).tolist() == key_table(lmdb).tolist()
    assert keys_digest(Squares(), 3) == keys_digest(lmdb, 3) != keys_digest(lmdb)
    lengths = b"".join(length.to_bytes(2, "little") for length in (1, 2, 3))
    assert keys_digest(lmdb, 3) == hashlib.sha256(lengths + b"a\0\0ab\0abc").hexdigest()


def test_concatenated_sources_follow_each_other(flat_lmdb, tmp_path):
    other = write_lmdb(tmp_path / "lmdb", {b"a": encode(flat_image(77))})
    source = ConcatSource([HeadSource(LMDBSource(flat_lmdb), 3), LMDBSource(other), Squares()])
    assert len(source) == 9
    assert [source.key(row) for row in (0, 2, 3, 4, 8)] == [b"%040x" % 0, b"%040x" % 2, b"a", b"a", b"abcde"]
    assert [int(read_image(source, row, ImageFormat(8))[0, 0, 0]) for row in (2, 3, 6, 8)] == [2, 77, 20, 40]
    assert CachedDataset(HeadSource(source, 6), ImageFormat(8)).images[:, 0, 0, 0].tolist() == [0, 1, 2, 77, 0, 10]
    with pytest.raises(InputError, match="Give 1 to 9"):
        HeadSource(source, 10)


def test_grey_pixels_of_any_size_become_rgb_of_the_given_size():
    class Greys(Squares):
        def read(self, index):
            return torch.full((1, 5, 9), 50 + index, dtype=torch.uint8)

    image = read_image(Greys(), 2, ImageFormat(8))
    assert (image.shape, image.unique().tolist()) == ((3, 8, 8), [52])
