import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import encode, flat_image, rows_of, write_lmdb

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.source import HeadSource, StreamingDataset
from glo_lightning.data.sources.folder import FolderSource
from glo_lightning.data.sources.lmdb import LMDBSource
from glo_lightning.data.store import CachedDataset
from glo_lightning.errors import InputError, ReadError
from glo_lightning.files import cache_folder
from glo_lightning.images import ImageFormat
from glo_lightning.locks import Lock


@pytest.fixture
def mixed_lmdb(tmp_path):
    """30 images, of which rows 3 and 17 are none."""
    source = {b"%040x" % row: encode(flat_image(row)) for row in range(30)}
    return write_lmdb(tmp_path / "mixed", source | {b"%040x" % row: b"hello" for row in (3, 17)})


def test_the_store_has_what_streaming_decodes(flat_lmdb):
    source = LMDBSource(flat_lmdb)
    stored, streamed = (
        CachedDataset(source, ImageFormat(32))[list(range(300))],
        StreamingDataset(source, ImageFormat(32))[list(range(300))],
    )
    assert torch.equal(stored[0], streamed[0])
    assert torch.equal(stored[1], streamed[1])
    assert CachedDataset(source, ImageFormat(32))[7][1] == 7


def test_every_image_is_decoded_once(flat_lmdb, monkeypatch):
    CachedDataset(HeadSource(LMDBSource(flat_lmdb), 100), ImageFormat(32))
    monkeypatch.setattr(LMDBSource, "read", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(
        rows_of(CachedDataset(HeadSource(LMDBSource(flat_lmdb), 100), ImageFormat(32)).images), torch.arange(100)
    )


def test_a_store_cut_off_goes_on_where_it_was(flat_lmdb, monkeypatch, tmp_path):
    source, read = HeadSource(LMDBSource(flat_lmdb), 200), LMDBSource.read
    monkeypatch.setattr("glo_lightning.data.store.CHUNK", 50)

    def read_until_120(self, row):
        if row == 120:
            os.kill(os.getpid(), signal.SIGKILL)  # as pages of an LMDB do that were overwritten
        return read(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(LMDBSource, "read", read_until_120)
        with pytest.raises(InputError, match=r"the process that decoded key 0+78 \(signal 9\)"):
            CachedDataset(source, ImageFormat(32))

    def read_and_tell(self, row):
        (tmp_path / str(row)).touch()  # in another process
        return read(self, row)

    monkeypatch.setattr(LMDBSource, "read", read_and_tell)
    assert torch.equal(rows_of(CachedDataset(source, ImageFormat(32)).images), torch.arange(200))
    decoded = sorted(int(path.name) for path in tmp_path.iterdir())
    assert decoded == list(range(min(decoded), 200))
    assert min(decoded) in (50, 100)  # after one or two syncs, by how fast the first was


def test_a_changed_database_has_another_store_and_the_old_one_goes(tmp_path):
    folder = write_lmdb(tmp_path / "lmdb", {b"a": encode(flat_image(1))})
    first = CachedDataset(LMDBSource(folder), ImageFormat(32))
    shutil.rmtree(folder)
    write_lmdb(folder, {b"a": encode(flat_image(2))})
    second = CachedDataset(LMDBSource(folder), ImageFormat(32))
    assert (rows_of(first.images).item(), rows_of(second.images).item()) == (1, 2)
    assert not first.file.exists()


def test_a_store_that_skipped_is_refused_by_one_that_raises(mixed_lmdb):
    source = LMDBSource(mixed_lmdb)
    assert CachedDataset(source, ImageFormat(32), "skip").skipped.tolist() == [3, 17]
    with pytest.raises(InputError, match="0003 of"):
        CachedDataset(source, ImageFormat(32))


def test_a_full_cache_is_found_out_before_the_decoding(flat_lmdb, monkeypatch):
    usage = shutil.disk_usage(flat_lmdb)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    before = {path for path in (cache_folder() / "images").iterdir() if path.is_dir()}
    with pytest.raises(InputError, match=r"--data\.cache false"):
        CachedDataset(HeadSource(LMDBSource(flat_lmdb), 299), ImageFormat(32))
    assert {path for path in (cache_folder() / "images").iterdir() if path.is_dir()} == before


def test_a_cache_that_cannot_be_written_is_named(flat_lmdb, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nobody")
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        CachedDataset(LMDBSource(flat_lmdb), ImageFormat(32))
    assert LSUNDataModule(str(flat_lmdb), image_size=32, cache=False).dataset[5][1] == 5


def test_several_runs_do_the_work_once(flat_lmdb, tmp_path):
    program = "import logging, sys; logging.basicConfig(level='INFO', stream=sys.stdout)\n"
    program += (
        "from glo_lightning.data.store import CachedDataset\nfrom glo_lightning.data.sources.lmdb import LMDBSource\n"
        "from glo_lightning.data.source import HeadSource\nfrom glo_lightning.images import ImageFormat\n"
    )
    program += f"CachedDataset(HeadSource(LMDBSource({str(flat_lmdb)!r}), 290), ImageFormat(64))"
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=100)[0] for run in runs]
    assert sorted(int(re.search(r"decoded (\d+) of 290", text)[1]) for text in said) == [0, 290]


def test_whatever_a_source_raises_is_raised_by_the_run():
    class Broken:
        fingerprint = ("broken", 1)

        def __len__(self):
            return 3

        def key(self, index):
            return b"%d" % index

        def read(self, index):
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        CachedDataset(Broken(), ImageFormat(8))


def test_a_run_that_was_begun_with_other_pixels_says_so(flat_lmdb, caplog):
    data = LSUNDataModule(flat_lmdb, image_size=32)
    with caplog.at_level("INFO", "glo_lightning"):
        data.load_state_dict(data.state_dict())
        assert "differently" not in caplog.text
        data.load_state_dict(data.state_dict() | {"decoding": 1})
    assert "decoded a little differently" in caplog.text


@pytest.fixture
def photos(tmp_path):
    """A folder of 30 images, of which 03.png is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for row in range(30):
        (folder / f"{row:02d}.png").write_bytes(b"hello" if row == 3 else encode(flat_image(row)))
    return folder


class Away(FolderSource):
    """The folder while its disk does not give some of the files."""

    def read(self, index):
        if self.names[index] in (b"05.png", b"11.png"):
            raise ReadError("key", self.names[index], "cannot be read")
        return super().read(index)


def test_what_the_disk_did_not_give_is_read_the_next_time(photos):
    away = CachedDataset(Away(photos), ImageFormat(32), "skip")
    assert [away.images.shape[0], len(away.skipped)] == [30, 3]
    again = CachedDataset(FolderSource(photos), ImageFormat(32), "skip")
    assert [FolderSource(photos).names[row] for row in again.skipped] == [b"03.png"]


def test_to_raise_looks_at_every_missing_row_again(photos):
    CachedDataset(Away(photos), ImageFormat(32), "skip")
    with pytest.raises(InputError, match=r"03\.png"):
        CachedDataset(FolderSource(photos), ImageFormat(32))
    (photos / "03.png").write_bytes(encode(flat_image(3)))
    repaired = FolderSource(photos)
    away = Away(photos)
    assert away.fingerprint == repaired.fingerprint
    CachedDataset(away, ImageFormat(32), "skip")
    whole = CachedDataset(repaired, ImageFormat(32))
    assert not len(whole.skipped)
    assert sorted(rows_of(whole.images).tolist()) == list(range(30))


def test_an_error_of_the_system_is_no_verdict_on_an_image_whatever_source_meets_it(photos):
    class Failing(FolderSource):
        def read(self, index):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(ReadError, match="Input/output error"):
        CachedDataset(Failing(photos), ImageFormat(32))
    with pytest.raises(InputError, match="none of its 30 images can be used"):
        CachedDataset(Failing(photos), ImageFormat(32), "skip")
    assert len(CachedDataset(FolderSource(photos), ImageFormat(32), "skip").skipped) == 1


def test_a_store_that_another_run_is_filling_is_left_alone(photos):
    old = FolderSource(photos)
    CachedDataset(old, ImageFormat(32), "skip")
    (store,) = [path for path in (cache_folder() / "images").glob("*-30x32") if _of(path, old)]
    (photos / "30.png").write_bytes(encode(flat_image(30)))
    lock = Lock(store.with_suffix(".lock"))
    assert lock.acquire()
    try:
        CachedDataset(FolderSource(photos), ImageFormat(32), "skip")
        assert store.is_dir()
    finally:
        lock.release()
    (photos / "31.png").write_bytes(encode(flat_image(31)))
    CachedDataset(FolderSource(photos), ImageFormat(32), "skip")
    assert not store.exists()


def _of(path, source):
    return path.name.startswith(hashlib.sha256(repr(source.fingerprint[0]).encode()).hexdigest()[:16])
