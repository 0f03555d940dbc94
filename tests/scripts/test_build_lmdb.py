import pytest
from conftest import encode, flat_image
from programs import call

from glo_lightning.data.source import read_image
from glo_lightning.data.sources.lmdb import LMDBSource
from glo_lightning.images import ImageFormat


@pytest.fixture
def images(tmp_path):
    """Five images, a copy of one in a folder below, and a file that is none."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for row in range(5):
        (folder / f"{row}.png").write_bytes(encode(flat_image(row, size=300)))
    (folder / "below" / "copy.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


def test_build_lmdb_makes_what_the_source_reads(images, tmp_path):
    status, output, errors = call("build_lmdb", tmp_path / "lmdb", images, "--size", 64, "--lossless")
    assert status == 0
    assert "6 images, 1 files left out" in output
    assert any("broken.jpg" in line for line in errors)
    source = LMDBSource(tmp_path / "lmdb")
    reds = [int(read_image(source, row, ImageFormat(64))[0, 0, 0]) for row in range(6)]
    assert sorted(reds) == [0, 0, 1, 2, 3, 4]
    assert all(len(source.key(row)) == 40 for row in range(6))
    assert sorted(path.name for path in (tmp_path / "lmdb").iterdir()) == ["data.mdb"]


def test_wrong_input_is_one_line_and_leaves_nothing(images, tmp_path):
    call("build_lmdb", tmp_path / "lmdb", images)
    before = (tmp_path / "lmdb" / "data.mdb").read_bytes()
    for arguments, word in (
        ((tmp_path / "lmdb", images), "exists already"),
        ((tmp_path / "b", images / "broken.jpg"), "no readable image"),
        ((tmp_path / "b", tmp_path / "nowhere"), "no such file or folder"),
        ((tmp_path / "b", images, "--quality", 0), "--quality 0"),
        (("/proc/nobody/writes", images), "cannot be written"),
    ):
        status, _, errors = call("build_lmdb", *arguments)
        assert status in (1, 2)
        assert word in errors[-1]
    assert (tmp_path / "lmdb" / "data.mdb").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "lmdb"]
