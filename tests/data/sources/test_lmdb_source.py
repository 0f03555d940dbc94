import contextlib
import multiprocessing
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from conftest import encode, flat_image, rows_of, write_lmdb
from odd_images import png
from torch.utils.data import DataLoader

from glo_lightning.data.attributes import find_attributes
from glo_lightning.data.digests import keys_digest
from glo_lightning.data.image_files import read_images
from glo_lightning.data.sampler import RowBatchSampler
from glo_lightning.data.source import HeadSource, read_image
from glo_lightning.data.sources.find import open_source
from glo_lightning.data.sources.lmdb import FACES, LMDBSource
from glo_lightning.data.store import StreamingDataset
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("forkserver", 1)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_image_and_index_agree_in_workers_of_an_open_dataset(flat_lmdb, method, workers):
    dataset = StreamingDataset(LMDBSource(flat_lmdb), ImageFormat(32))
    dataset[0]  # the environment is open in this process
    sampler = RowBatchSampler(len(dataset), 32, seed=1)
    loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers, multiprocessing_context=method)
    batches = list(loader)
    assert all(torch.equal(rows_of(images), index) for images, index in batches)
    assert sorted(torch.cat([index for _, index in batches]).tolist()) == list(range(300))


def test_a_subset_is_a_prefix_in_key_order(flat_lmdb):
    whole, part = LMDBSource(flat_lmdb), HeadSource(LMDBSource(flat_lmdb), 7)
    assert [part.key(row) for row in range(7)] == [b"%040x" % row for row in range(7)]
    assert all(part.read(row) == whole.read(row) for row in range(7))
    for row in (7, -1):
        with pytest.raises(IndexError):
            read_image(part, row, ImageFormat(32))


def test_the_digest_of_a_prefix_does_not_depend_on_later_keys(tmp_path):
    image = encode(flat_image(0))
    short = LMDBSource(write_lmdb(tmp_path / "a", {b"a": image, b"b\0": image}))
    longer = LMDBSource(write_lmdb(tmp_path / "b", {b"a": image, b"b\0": image, b"c" * 50: image}))
    other = LMDBSource(write_lmdb(tmp_path / "c", {b"a": image, b"b": image}))
    assert [short.key(0), short.key(1)] == [b"a", b"b\0"]
    assert keys_digest(short) == keys_digest(HeadSource(longer, 2)) != keys_digest(other)


def test_a_changed_database_is_listed_again(tmp_path):
    image = encode(flat_image(0))
    folder = write_lmdb(tmp_path / "lmdb", {b"a": image, b"b": image})
    assert len(LMDBSource(folder)) == 2
    before = (folder / "data.mdb").stat()
    shutil.rmtree(folder)
    write_lmdb(folder, {b"a": image, b"c": image})  # as many records, the same size, the same time
    os.utime(folder / "data.mdb", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert LMDBSource(folder).key(1) == b"c"


def test_the_list_of_keys_is_made_once(flat_lmdb, monkeypatch):
    LMDBSource(flat_lmdb)
    monkeypatch.setattr("glo_lightning.data.sources.lmdb.write_whole", lambda *_, **__: pytest.fail("listed again"))
    assert len(LMDBSource(flat_lmdb)) == 300


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None], ids=["emptied", "cut", "flipped"])
def test_a_damaged_list_of_keys_is_made_again(tmp_path, damage, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_lmdb(tmp_path / "lmdb", {b"a": encode(flat_image(0)), b"b": encode(flat_image(1))})
    LMDBSource(folder)
    (file,) = (tmp_path / "cache" / "glo_lightning" / "keys").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"b", b"c") if damage is None else damage)
    assert LMDBSource(folder).key(1) == b"b"
    assert file.read_bytes() == whole


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_cache_of_somebody_else_is_done_without(monkeypatch):
    base = Path(tempfile.mkdtemp())  # others may not enter pytest's own folder
    base.chmod(0o755)
    folder = write_lmdb(base / "lmdb", {b"a": encode(flat_image(0))})
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "cache"))
    LMDBSource(folder)
    (base / "cache").chmod(0o700)
    os.seteuid(65534)
    try:
        assert LMDBSource(folder).key(0) == b"a"
    finally:
        os.seteuid(0)
        shutil.rmtree(base)


@pytest.mark.parametrize("name", ["images.lmdb", "data.mdb"])
def test_an_lmdb_in_one_file_is_read_with_its_labels(tmp_path, name):
    with lmdb.open(str(tmp_path / name), subdir=False, map_size=1 << 20) as environment:
        for row in range(5):
            with environment.begin(write=True) as transaction:
                transaction.put(b"%02d" % row, encode(flat_image(row)))
    (tmp_path / "attributes.csv").write_text("key,parity\n03,odd\n")
    source = open_source(tmp_path / name)
    assert [rows_of(read_image(source, row, ImageFormat(32))[None]).item() for row in range(5)] == [0, 1, 2, 3, 4]
    assert source.labels(3) == {"parity": "odd"}


def test_named_databases_are_refused(tmp_path):
    with lmdb.open(str(tmp_path / "lmdb"), max_dbs=2) as environment, environment.begin(write=True) as transaction:
        for name in (b"images", b"labels"):
            transaction.put(b"0", encode(flat_image(0)), db=environment.open_db(name, transaction))
    with pytest.raises(InputError, match="holds the named database b'images'"):
        open_source(tmp_path / "lmdb")


def test_keys_of_any_bytes_are_kept_in_order(tmp_path):
    keys = [bytes(8), b"\0\1", struct.pack("<Q", 7), "ключ".encode()]
    source = open_source(write_lmdb(tmp_path / "lmdb", {key: encode(flat_image(0)) for key in keys}))
    assert [source.key(row) for row in range(4)] == sorted(keys)


def test_lsun_folder_and_lmdb_folder_are_the_same(tmp_path):
    folder = write_lmdb(tmp_path / "bedroom_train_lmdb", {b"a": encode(flat_image(3))})
    assert LMDBSource(tmp_path).read(0) == LMDBSource(folder).read(0)


INVALID = {
    "nothing": b"",
    "text": b"hello",
    "random bytes": np.random.default_rng(0).bytes(5000),
    "pickle": pickle.dumps({"image": 1}),
    "truncated PNG": encode(flat_image(0))[:60],
    "truncated JPEG": encode(flat_image(0, 256), "JPEG")[:300],
    "truncated WebP": encode(flat_image(0, 256), "WEBP")[:50],
    "decompression bomb": png(60_000, 60_000, 2, 8, [bytes(99)]),
    "zero-size PNG": png(0, 5, 2, 8, [bytes(99)]),
    "zero-size GIF": b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x02D\x01\0;",
}


@pytest.mark.parametrize("record", INVALID.values(), ids=INVALID)
def test_an_invalid_record_is_named_by_its_key(tmp_path, record):
    dataset = LMDBSource(write_lmdb(tmp_path / "lmdb", {b"good": encode(flat_image(0)), b"the-key": record}))
    with pytest.raises(InputError, match="the-key"):
        read_image(dataset, 1, ImageFormat(64))


def write_in_another_process(folder, statement):
    """A process may open an LMDB only once."""
    program = f"import lmdb\nwith lmdb.open({str(folder)!r}) as e, e.begin(write=True) as t: {statement}"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_database_that_is_changed_while_it_is_read(tmp_path):
    folder = write_lmdb(tmp_path / "lmdb", {b"%02d" % row: encode(flat_image(row)) for row in range(9)})
    dataset = LMDBSource(folder)
    write_in_another_process(folder, "t.delete(b'07'); t.put(b'99', b'x' * 10_000)")
    assert rows_of(read_image(dataset, 8, ImageFormat(32))[None]).item() == 8
    with pytest.raises(InputError, match=r"key 07 of .* gone"):
        dataset.read(7)
    assert len(LMDBSource(folder)) == 9  # listed again, with 99


@pytest.mark.parametrize("opened", [False, True])
def test_a_truncated_database_is_refused(tmp_path, opened):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    folder = write_lmdb(tmp_path / "lmdb", {b"%02d" % row: encode(pixels) for row in range(50)})
    dataset = LMDBSource(folder) if opened else None
    os.truncate(folder / "data.mdb", (folder / "data.mdb").stat().st_size // 2)
    with pytest.raises(InputError, match="truncated"):
        (dataset or LMDBSource(folder)).read(49)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pages_of_random_bytes_are_an_input_error(flat_lmdb, tmp_path):
    folder = tmp_path / "lmdb"
    folder.mkdir()
    content = bytearray((flat_lmdb / "data.mdb").read_bytes())
    content[3 * 4096 :] = np.random.default_rng(0).bytes(len(content) - 3 * 4096)
    (folder / "data.mdb").write_bytes(content)

    def read():
        with contextlib.suppress(InputError):
            source = LMDBSource(folder)
            for row in range(300):
                source.read(row)
            os._exit(1)
        os._exit(3)

    process = multiprocessing.get_context("fork").Process(target=read)  # which the system must not kill either
    process.start()
    process.join()
    assert process.exitcode == 3


def test_pages_that_crash_liblmdb_are_an_input_error(flat_lmdb, tmp_path, monkeypatch):
    folder = shutil.copytree(flat_lmdb, tmp_path / "lmdb")
    monkeypatch.setattr("glo_lightning.data.sources.lmdb._list_keys", lambda path: os.kill(os.getpid(), 9))
    with pytest.raises(InputError, match="crashes liblmdb"):
        LMDBSource(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_database_without_permission_is_named(what):
    base = Path(tempfile.mkdtemp())  # others may not enter pytest's own folder
    base.chmod(0o755)
    folder = write_lmdb(base / "lmdb", {b"a": encode(flat_image(0))})
    closed = folder if what == "folder" else folder / "data.mdb"
    closed.chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match=r"(?i)permission"):
            LMDBSource(folder)
    finally:
        os.seteuid(0)
        shutil.rmtree(base)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_among_images_that_may_not_be_read_is_skipped(caplog):
    base = Path(tempfile.mkdtemp())  # others may not enter pytest's own folder
    base.chmod(0o755)
    for number, name in enumerate(("closed.png", "open.png")):
        (base / name).write_bytes(encode(flat_image(number)))
    (base / "closed.png").chmod(0)
    os.seteuid(65534)
    try:
        images, names = read_images([base / "closed.png", base / "open.png"], ImageFormat(32))
        assert (rows_of(images).tolist(), names) == ([1], [str(base / "open.png")])
    finally:
        os.seteuid(0)
        shutil.rmtree(base)
    assert "closed.png" in caplog.text


def test_two_datasets_share_one_environment(flat_lmdb):
    first, second = LMDBSource(flat_lmdb), LMDBSource(flat_lmdb)
    images = [read_image(source, 5, ImageFormat(size))[None] for source, size in ((first, 32), (second, 64))]
    assert [rows_of(image).item() for image in images] == [5, 5]


def test_the_shipped_images_are_4096_faces_that_differ_and_their_attributes():
    source = LMDBSource(None)
    assert len(source) == 4096
    assert sum(file.stat().st_size for file in FACES.iterdir()) <= 9e6
    assert sorted(file.name for file in FACES.iterdir()) == ["attributes.csv", "data.mdb"]
    assert len({read_image(source, row, ImageFormat(64)).numpy().tobytes() for row in range(512)}) == 512
    attributes = find_attributes(source)
    # the attribute background is the colour of the corners
    for row in range(64):
        name = attributes.values["background"][int(attributes.table[row, list(attributes.values).index("background")])]
        assert bytes(read_image(source, row, ImageFormat(64))[:, 0, 0].tolist()).hex() == name


def test_a_read_only_database_is_read(flat_lmdb, tmp_path):
    folder = tmp_path / "lmdb"
    folder.mkdir()
    shutil.copy(flat_lmdb / "data.mdb", folder)
    folder.chmod(0o555)
    assert len(LMDBSource(folder)) == 300
    assert [file.name for file in folder.iterdir()] == ["data.mdb"]
    folder.chmod(0o755)
