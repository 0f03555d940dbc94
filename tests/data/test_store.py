import errno
import hashlib
import logging
import multiprocessing
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, rows_of, write_lmdb
from odd_images import png

from glo_lightning.data import LSUNDataModule, decoding
from glo_lightning.data.image_files import read_images
from glo_lightning.data.source import HeadSource
from glo_lightning.data.sources.folder import FolderSource
from glo_lightning.data.sources.lmdb import LMDBSource
from glo_lightning.data.store import CachedDataset, StreamingDataset
from glo_lightning.errors import InputError, ReadError
from glo_lightning.files import cache_folder
from glo_lightning.images import ImageFormat
from glo_lightning.locks import Lock

SIZE = ImageFormat(32)


def test_cached_images_are_the_streamed_ones(flat_lmdb):
    source, rows = LMDBSource(flat_lmdb), list(range(300))
    cached, streamed = CachedDataset(source, SIZE), StreamingDataset(source, SIZE)
    assert all(map(torch.equal, cached[rows], streamed[rows]))
    assert cached[7][1] == 7


def test_every_image_is_decoded_once(flat_lmdb, monkeypatch):
    source = HeadSource(LMDBSource(flat_lmdb), 100)
    CachedDataset(source, SIZE)
    monkeypatch.setattr(LMDBSource, "read", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(rows_of(CachedDataset(source, SIZE).images), torch.arange(100))


def test_decoding_that_was_killed_is_continued(flat_lmdb, monkeypatch, tmp_path):
    source, read = HeadSource(LMDBSource(flat_lmdb), 200), LMDBSource.read
    monkeypatch.setattr("glo_lightning.data.store.CHUNK", 50)

    def read_until_120(self, row):
        if row == 120:
            os.kill(os.getpid(), signal.SIGKILL)  # as overwritten pages of an LMDB do
        return read(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(LMDBSource, "read", read_until_120)
        with pytest.raises(InputError, match=r"the process that decoded key 0+78 \(signal 9\)"):
            CachedDataset(source, SIZE)

    def read_and_record(self, row):
        (tmp_path / str(row)).touch()  # in another process
        return read(self, row)

    monkeypatch.setattr(LMDBSource, "read", read_and_record)
    assert torch.equal(rows_of(CachedDataset(source, SIZE).images), torch.arange(200))
    decoded = sorted(int(path.name) for path in tmp_path.iterdir())
    assert decoded == list(range(min(decoded), 200))
    assert min(decoded) in (50, 100)  # after one or two syncs, depending on the speed of the first


def test_a_changed_database_is_decoded_again_and_its_old_images_are_deleted(tmp_path):
    folder = write_lmdb(tmp_path / "lmdb", {b"a": encode(flat_image(1))})
    first = CachedDataset(LMDBSource(folder), SIZE)
    shutil.rmtree(folder)
    write_lmdb(folder, {b"a": encode(flat_image(2))})
    second = CachedDataset(LMDBSource(folder), SIZE)
    assert (rows_of(first.images).item(), rows_of(second.images).item()) == (1, 2)
    assert not first.file.exists()


def test_a_full_disk_is_noticed_before_the_decoding(flat_lmdb, monkeypatch):
    usage = shutil.disk_usage(flat_lmdb)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    before = {path for path in (cache_folder() / "images").iterdir() if path.is_dir()}
    with pytest.raises(InputError, match=r"--data\.cache false"):
        CachedDataset(HeadSource(LMDBSource(flat_lmdb), 299), SIZE)
    assert {path for path in (cache_folder() / "images").iterdir() if path.is_dir()} == before


def test_a_cache_that_cannot_be_written_is_named(flat_lmdb, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nobody")
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        CachedDataset(LMDBSource(flat_lmdb), SIZE)
    assert LSUNDataModule(str(flat_lmdb), image_size=32, cache=False).dataset[5][1] == 5


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_of_several_runs_one_decodes(flat_lmdb, tmp_path):
    def fill(file):
        logging.getLogger("glo_lightning").setLevel("INFO")
        logging.getLogger("glo_lightning").addHandler(logging.FileHandler(file))
        CachedDataset(HeadSource(LMDBSource(flat_lmdb), 290), ImageFormat(64))

    files = [tmp_path / "first.log", tmp_path / "second.log"]
    runs = [multiprocessing.get_context("fork").Process(target=fill, args=(file,)) for file in files]
    for run in runs:
        run.start()
    for run in runs:
        run.join(100)
    said = [re.search(r"(decoded|all) 290 .*", file.read_text())[0] for file in files]
    assert sorted(said) == ["all 290 images are decoded already", "decoded 290 of 290 images"]


def test_any_error_of_a_source_is_raised_by_the_run():
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


def test_a_run_begun_with_images_decoded_differently_says_so(flat_lmdb, caplog):
    data = LSUNDataModule(flat_lmdb, image_size=32)
    with caplog.at_level("INFO", "glo_lightning"):
        data.load_state_dict(data.state_dict())
        assert "differently" not in caplog.text
        data.load_state_dict(data.state_dict() | {"decoding": 1})
    assert "decoded differently" in caplog.text


@pytest.fixture
def photos(tmp_path):
    """A folder of 30 files, of which 03.png is not an image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for row in range(30):
        (folder / f"{row:02d}.png").write_bytes(b"hello" if row == 3 else encode(flat_image(row)))
    return folder


class Unreadable(FolderSource):
    """The folder while the disk cannot read two of its files."""

    def read(self, index):
        if self.names[index] in (b"05.png", b"11.png"):
            raise ReadError("key", self.names[index], "cannot be read")
        return super().read(index)


def test_files_that_the_disk_could_not_read_are_tried_again(photos):
    assert len(CachedDataset(Unreadable(photos), SIZE, "skip").skipped) == 3
    again = CachedDataset(FolderSource(photos), SIZE, "skip")
    assert [FolderSource(photos).names[row] for row in again.skipped] == [b"03.png"]


def test_with_raise_every_skipped_row_is_tried_again(photos):
    CachedDataset(Unreadable(photos), SIZE, "skip")
    with pytest.raises(InputError, match=r"03\.png"):
        CachedDataset(FolderSource(photos), SIZE)
    (photos / "03.png").write_bytes(encode(flat_image(3)))
    CachedDataset(Unreadable(photos), SIZE, "skip")
    whole = CachedDataset(FolderSource(photos), SIZE)
    assert not whole.skipped
    assert sorted(rows_of(whole.images).tolist()) == list(range(30))


@pytest.fixture
def noisy(tmp_path):
    """An image that is read with a warning, and one of which libtiff complains."""
    deep = png(8, 8, 0, 16, [bytes([1, 0]) * 8] * 8)
    fax = bytearray(encode(np.random.default_rng(0).random((32, 32)) < 0.5, "TIFF", compression="group4"))
    fax[10] ^= 0x55
    for number in range(3):
        (tmp_path / f"deep{number}.png").write_bytes(deep)
    (tmp_path / "bad.tif").write_bytes(fax)
    return tmp_path


def test_what_is_said_of_an_image_is_told_once_with_its_name(noisy, caplog, capfd):
    CachedDataset(FolderSource(noisy), SIZE)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    (deep,) = [line for line in lines if "less than a sixteenth" in line]
    assert re.match(rf"key deep\d\.png of {noisy} \(3 images\): its pixels", deep)
    (complaint,) = [line for line in lines if "Fax4Decode" in line]
    assert complaint.startswith(f"key bad.tif of {noisy}: ")
    assert "Fax4Decode" not in capfd.readouterr().err


def test_commands_tell_it_with_the_name_of_the_file(noisy, caplog, capfd):
    images, names = read_images([noisy], SIZE)
    assert len(images) == len(names) == 4
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith(f"{noisy / 'deep1.png'}: its pixels use less") for line in lines) == 1
    assert any(line.startswith(f"{noisy / 'bad.tif'}: Fax4Decode") for line in lines)
    assert "Fax4Decode" not in capfd.readouterr().err


def test_decoding_works_without_a_standard_error(noisy, monkeypatch):
    def closed(number):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    assert len(CachedDataset(FolderSource(noisy), SIZE)) == 4


def test_as_many_processes_decode_as_memory_allows(flat_lmdb, monkeypatch):
    numbers, run = [], decoding.run_in_subprocesses
    monkeypatch.setattr(decoding, "run_in_subprocesses", lambda a, *rest: numbers.append(len(a)) or run(a, *rest))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for number, free in enumerate((100e9, 4e9, 1e6)):
        monkeypatch.setattr(decoding, "free_memory", lambda free=free: int(free))
        CachedDataset(HeadSource(LMDBSource(flat_lmdb), 280 + number), ImageFormat(8))
    assert numbers == [18, 2, 1]


def test_progress_is_told_twice_a_second(tmp_path):
    class Slow(FolderSource):
        def read(self, index):
            time.sleep(1.3)
            return super().read(index)

    (tmp_path / "1.png").write_bytes(encode(flat_image(1)))
    seen = []
    decoder = decoding.Decoder(Slow(tmp_path), SIZE, "raise", tmp_path)
    pixels = np.zeros((1, *SIZE.shape), np.uint8)
    decoder.decode(np.arange(1), pixels, lambda done: seen.append((done, time.monotonic())))
    assert [done for done, _ in seen] == [0, 0, 1]
    assert np.diff([moment for _, moment in seen]).max() < 1


def test_an_error_of_the_system_does_not_make_an_image_invalid(photos):
    class Failing(FolderSource):
        def read(self, index):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(ReadError, match="Input/output error"):
        CachedDataset(Failing(photos), SIZE)
    with pytest.raises(InputError, match="none of its 30 images can be used"):
        CachedDataset(Failing(photos), SIZE, "skip")
    assert len(CachedDataset(FolderSource(photos), SIZE, "skip").skipped) == 1


def test_old_images_are_kept_while_another_run_is_filling_them(photos):
    source = FolderSource(photos)
    folder = CachedDataset(source, SIZE, "skip").file.parent
    assert folder.name.startswith(hashlib.sha256(repr(source.fingerprint[0]).encode()).hexdigest()[:16])
    lock = Lock(folder.with_suffix(".lock"))
    assert lock.acquire()
    for number, is_kept in ((30, True), (31, False)):
        (photos / f"{number}.png").write_bytes(encode(flat_image(number)))
        CachedDataset(FolderSource(photos), SIZE, "skip")
        assert folder.is_dir() == is_kept
        lock.release()
