import io
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from conftest import encode, flat_image, write_lmdb
from glo_lightning.lmdb_dataset import EMOJI, LMDBDataset, cache_folder, decode_image
from glo_lightning.store import StoredImages
from PIL import Image
from torch.utils.data import DataLoader

from glo_lightning.data import BatchSampler, LSUNDataModule
from glo_lightning.errors import InputError


def rows_of(images: torch.Tensor) -> torch.Tensor:
    """The row that each flat image tells of."""
    return images[:, 0, 0, 0].long() + 256 * images[:, 1, 0, 0].long()


@pytest.mark.parametrize(("workers", "cached"), [(0, True), (0, False), (2, False)])
def test_image_and_index_agree_under_shuffling(flat_lmdb, workers, cached):
    data = LSUNDataModule(str(flat_lmdb), image_size=32, batch_size=32, num_workers=workers, cache=cached)
    seen = []
    for images, index in data.train_dataloader():
        assert images.dtype == torch.uint8
        assert torch.equal(rows_of(images), index)
        seen += index.tolist()
    assert seen != sorted(seen)
    assert sorted(seen) == list(range(300))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_image_and_index_agree_in_workers_of_an_open_dataset(flat_lmdb, method):
    dataset = LMDBDataset(flat_lmdb, 32)
    dataset[0]  # the environment is open in this process
    sampler = BatchSampler(len(dataset), 32, seed=1)
    loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=2, multiprocessing_context=method)
    batches = list(loader)
    assert all(torch.equal(rows_of(images), index) for images, index in batches)
    assert sorted(torch.cat([index for _, index in batches]).tolist()) == list(range(300))


@pytest.mark.parametrize(("num_images", "batch_size"), [(1, 8), (8, 8), (33, 8), (65, 8), (63, 8), (300, 128), (5, 1)])
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_row_once_in_batches_that_differ_by_at_most_one(num_images, batch_size, world_size):
    ranks = [list(BatchSampler(num_images, batch_size, 0, rank, world_size)) for rank in range(world_size)]
    batches = [[row for part in parts for row in part] for parts in zip(*ranks, strict=True)]
    sizes = [len(batch) for batch in batches]
    assert len(batches) == -(-num_images // batch_size)
    assert max(sizes) - min(sizes) <= 1
    assert sorted(row for batch in batches for row in batch) == list(range(num_images))


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = BatchSampler(100, 10, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def test_a_subset_is_a_prefix_in_key_order(flat_lmdb):
    whole, part = LMDBDataset(flat_lmdb, 32), LMDBDataset(flat_lmdb, 32, num_samples=7)
    assert [part.key(row) for row in range(7)] == [b"%040x" % row for row in range(7)]
    assert all(torch.equal(part[row][0], whole[row][0]) for row in range(7))
    with pytest.raises(IndexError):
        part[7]
    with pytest.raises(IndexError):
        part[-1]


def test_digest_tells_the_rows_of_a_prefix_alone(tmp_path):
    image = encode(flat_image(0))
    short = LMDBDataset(write_lmdb(tmp_path / "a", {b"a": image, b"b\0": image}), 32)
    longer = LMDBDataset(write_lmdb(tmp_path / "b", {b"a": image, b"b\0": image, b"c" * 50: image}), 32, 2)
    other = LMDBDataset(write_lmdb(tmp_path / "c", {b"a": image, b"b": image}), 32)
    assert [short.key(0), short.key(1)] == [b"a", b"b\0"]
    assert short.digest() == longer.digest() != other.digest()


def test_a_changed_database_is_listed_anew(tmp_path):
    image = encode(flat_image(0))
    folder = write_lmdb(tmp_path / "lmdb", {b"a": image, b"b": image})
    assert len(LMDBDataset(folder)) == 2
    before = (folder / "data.mdb").stat()
    shutil.rmtree(folder)
    write_lmdb(folder, {b"a": image, b"c": image})  # as many records, the same size, the same time
    os.utime(folder / "data.mdb", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert LMDBDataset(folder).key(1) == b"c"


def test_the_list_of_keys_is_made_once(flat_lmdb, monkeypatch):
    LMDBDataset(flat_lmdb)
    monkeypatch.setattr(np, "save", lambda *_, **__: pytest.fail("listed again"))
    assert len(LMDBDataset(flat_lmdb)) == 300


def test_lsun_folder_and_lmdb_folder_are_the_same(tmp_path):
    write_lmdb_folder = tmp_path / "bedroom_train_lmdb"
    write_lmdb(write_lmdb_folder, {b"a": encode(flat_image(3))})
    assert torch.equal(LMDBDataset(tmp_path)[0][0], LMDBDataset(write_lmdb_folder)[0][0])


@pytest.mark.parametrize("file_format", ["WEBP", "JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(256, 341), (400, 256), (64, 64), (20, 50)])
def test_decoding_is_torchvisions_resize_and_centre_crop(file_format, shape):
    ramp = np.add.outer(np.linspace(0, 120, shape[0]), np.linspace(0, 120, shape[1]))
    pixels = np.stack([ramp, 240 - ramp, ramp / 2], -1).astype(np.uint8)
    record = encode(pixels, file_format)
    expected = TF.pil_to_tensor(Image.open(io.BytesIO(record)).convert("RGB"))
    expected = TF.center_crop(TF.resize(expected, 64, antialias=True), [64, 64])
    decoded = decode_image(record, 64)
    assert decoded.shape == (3, 64, 64)
    # torchvision rounds the longer side and the crop to whole pixels: half a pixel, of ramps that rise by up to 6 each
    difference = (decoded.int() - expected.int()).abs()
    assert difference.max() <= 4
    assert difference.float().mean() <= 1


def test_downscaling_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert (decode_image(encode(stripes), 64)[:, :, 1:-1].int() - 127).abs().max() <= 2


def test_every_channel_mode_becomes_rgb():
    white, red = (255, 255, 255), (255, 0, 0)

    def middle(image: Image.Image, file_format="PNG", **options):
        record = io.BytesIO()
        image.save(record, file_format, **options)
        return tuple(decode_image(record.getvalue(), 32)[:, 16, 16].tolist())

    assert middle(Image.new("RGBA", (32, 32), (255, 0, 0, 0))) == white
    assert middle(Image.new("RGBA", (32, 32), (255, 0, 0, 255))) == red
    assert middle(Image.new("RGB", (32, 32), red).quantize()) == red
    assert middle(Image.new("L", (32, 32), 77)) == (77, 77, 77)
    assert middle(Image.new("LA", (32, 32), (77, 0))) == white
    assert middle(Image.new("1", (32, 32), 1)) == white
    assert middle(Image.fromarray(np.full((32, 32), 77 * 256, np.uint16))) == (77, 77, 77)
    assert middle(Image.new("CMYK", (32, 32), (0, 0, 0, 0)), "JPEG") == white


def test_exif_orientation_is_applied():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    assert decode_image(encode(pixels, "PNG", exif=exif), 32)[0, 0, 0] == 0


def png(width: int, height: int) -> bytes:
    """A PNG that says it has that size, whatever it holds."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


NO_IMAGES = {
    "nothing": b"",
    "text": b"hello",
    "random bytes": np.random.default_rng(0).bytes(5000),
    "pickle": pickle.dumps({"image": 1}),
    "truncated PNG": encode(flat_image(0))[:60],
    "truncated JPEG": encode(flat_image(0, 256), "JPEG")[:300],
    "truncated WebP": encode(flat_image(0, 256), "WEBP")[:50],
    "decompression bomb": png(60_000, 60_000),
    "zero-size PNG": png(0, 5),
    "zero-size GIF": b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x02D\x01\0;",
}


@pytest.mark.parametrize("record", NO_IMAGES.values(), ids=NO_IMAGES)
def test_a_record_that_is_no_image_is_named_by_its_key(tmp_path, record):
    dataset = LMDBDataset(write_lmdb(tmp_path / "lmdb", {b"good": encode(flat_image(0)), b"the-key": record}))
    with pytest.raises(InputError, match="the-key"):
        dataset[1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1)])
def test_an_image_of_one_pixel_or_one_line_is_an_image(shape):
    pixels = np.full((*shape, 3), 77, np.uint8)
    assert (decode_image(encode(pixels), 32) == 77).all()


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animated_image_the_first_frame_is_taken(file_format):
    frames, record = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (200, 20)], io.BytesIO()
    frames[0].save(record, file_format, save_all=True, append_images=frames[1:])
    assert abs(int(decode_image(record.getvalue(), 32)[0, 16, 16]) - 200) <= 5


def write_meanwhile(folder, statement):
    """In another process: an LMDB is opened once in each."""
    program = f"import lmdb\nwith lmdb.open({str(folder)!r}) as e, e.begin(write=True) as t: {statement}"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_database_that_is_written_to_meanwhile(tmp_path):
    folder = write_lmdb(tmp_path / "lmdb", {b"%02d" % row: encode(flat_image(row)) for row in range(9)})
    dataset = LMDBDataset(folder, 32)
    write_meanwhile(folder, "t.delete(b'07'); t.put(b'99', b'x' * 10_000)")
    assert rows_of(dataset[[8]][0]).item() == 8
    with pytest.raises(InputError, match=r"key 07 of .* gone"):
        dataset[7]
    assert len(LMDBDataset(folder, 32)) == 9  # listed anew, with 99


@pytest.mark.parametrize("opened", [False, True])
def test_a_database_that_has_been_cut_off(tmp_path, opened):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    folder = write_lmdb(tmp_path / "lmdb", {b"%02d" % row: encode(pixels) for row in range(50)})
    dataset = LMDBDataset(folder, 32) if opened else None
    os.truncate(folder / "data.mdb", (folder / "data.mdb").stat().st_size // 2)
    with pytest.raises(InputError, match="cut off"):
        (dataset or LMDBDataset(folder, 32))[49]


def test_pages_of_random_bytes_are_an_error_of_ours(flat_lmdb, tmp_path):
    # in a process of its own: it may not be ended by the system either
    folder = tmp_path / "lmdb"
    folder.mkdir()
    content = bytearray((flat_lmdb / "data.mdb").read_bytes())
    content[3 * 4096 :] = np.random.default_rng(0).bytes(len(content) - 3 * 4096)
    (folder / "data.mdb").write_bytes(content)
    program = "import sys\nfrom glo_lightning.errors import InputError\nfrom glo_lightning.lmdb_dataset import *\n"
    program += f"try: [LMDBDataset({str(folder)!r}, 32)[row] for row in range(300)]\nexcept InputError: sys.exit(3)"
    assert subprocess.run([sys.executable, "-c", program], check=False, stderr=subprocess.PIPE).returncode == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_no_permission(what):
    base = Path(tempfile.mkdtemp())  # others may not enter pytest's own folder
    base.chmod(0o755)
    folder = write_lmdb(base / "lmdb", {b"a": encode(flat_image(0))})
    closed = folder if what == "folder" else folder / "data.mdb"
    closed.chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="permission"):
            LMDBDataset(folder)
    finally:
        os.seteuid(0)
        shutil.rmtree(base)


def test_two_datasets_share_one_environment(flat_lmdb):
    first, second = LMDBDataset(flat_lmdb), LMDBDataset(flat_lmdb, 32)
    assert first[5][1] == second[5][1] == 5


def test_images_on_the_device_are_in_the_unit_range(flat_lmdb):
    batch = (torch.tensor([0, 255], dtype=torch.uint8), torch.tensor([0, 1]))
    images, _ = LSUNDataModule(str(flat_lmdb)).on_after_batch_transfer(batch, 0)
    assert images.tolist() == [-1, 1]


def test_the_shipped_images_are_the_emoji():
    dataset = LMDBDataset(None, 64)
    assert len(dataset) == 1911
    assert (EMOJI / "data.mdb").stat().st_size <= 6e6
    assert sorted(file.name for file in EMOJI.iterdir()) == ["data.mdb"]
    images, _ = dataset[list(range(64))]
    assert (images[:, :, 0, 0] > 240).float().mean() > 0.9  # most corners are the white that they are laid on


def test_a_read_only_database_is_read(flat_lmdb, tmp_path):
    folder = tmp_path / "lmdb"
    folder.mkdir()
    shutil.copy(flat_lmdb / "data.mdb", folder)
    folder.chmod(0o555)
    assert len(LMDBDataset(folder)) == 300
    assert [file.name for file in folder.iterdir()] == ["data.mdb"]
    folder.chmod(0o755)


# ------------------------------------------------------------------------------------------------------------ the store


@pytest.fixture
def mixed_lmdb(tmp_path):
    """30 images, of which rows 3 and 17 are none."""
    records = {b"%040x" % row: encode(flat_image(row)) for row in range(30)}
    return write_lmdb(tmp_path / "mixed", records | {b"%040x" % row: b"hello" for row in (3, 17)})


def test_the_store_has_what_streaming_decodes(flat_lmdb):
    records = LMDBDataset(flat_lmdb, 32)
    stored, streamed = StoredImages(records)[list(range(300))], records[list(range(300))]
    assert torch.equal(stored[0], streamed[0])
    assert torch.equal(stored[1], streamed[1])
    assert StoredImages(records)[7][1] == 7


def test_every_image_is_decoded_once(flat_lmdb, monkeypatch):
    StoredImages(LMDBDataset(flat_lmdb, 32, 100))
    monkeypatch.setattr(LMDBDataset, "read", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(rows_of(StoredImages(LMDBDataset(flat_lmdb, 32, 100)).images), torch.arange(100))


def test_a_store_cut_off_goes_on_where_it_was(flat_lmdb, monkeypatch):
    records, read, decoded = LMDBDataset(flat_lmdb, 32, 200), LMDBDataset.read, []
    monkeypatch.setattr("glo_lightning.store.CHUNK", 50)

    def read_until_120(self, row):
        if row == 120:
            raise KeyboardInterrupt
        return read(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(LMDBDataset, "read", read_until_120)
        with pytest.raises(KeyboardInterrupt):
            StoredImages(records)
    monkeypatch.setattr(LMDBDataset, "read", lambda self, row: decoded.append(row) or read(self, row))
    assert torch.equal(rows_of(StoredImages(records).images), torch.arange(200))
    assert sorted(decoded) == list(range(100, 200))


def test_a_changed_database_has_another_store_and_the_old_one_goes(tmp_path):
    folder = write_lmdb(tmp_path / "lmdb", {b"a": encode(flat_image(1))})
    first = StoredImages(LMDBDataset(folder, 32))
    shutil.rmtree(folder)
    write_lmdb(folder, {b"a": encode(flat_image(2))})
    second = StoredImages(LMDBDataset(folder, 32))
    assert (rows_of(first.images).item(), rows_of(second.images).item()) == (1, 2)
    assert not first.file.exists()


@pytest.mark.parametrize("cached", [True, False])
def test_skipping_never_shifts_a_row(mixed_lmdb, cached, caplog):
    data = LSUNDataModule(str(mixed_lmdb), image_size=32, batch_size=7, cache=cached, on_error="skip")
    batches = list(data.train_dataloader())
    assert all(torch.equal(rows_of(images), index) for images, index in batches)
    assert sorted(torch.cat([index for _, index in batches]).tolist()) == sorted({*range(30)} - {3, 17})
    assert data.num_images == 30
    assert b"%040x" % 17 in caplog.text.encode()


def test_a_store_that_skipped_is_refused_by_one_that_raises(mixed_lmdb):
    records = LMDBDataset(mixed_lmdb, 32)
    assert StoredImages(records, "skip").skipped.tolist() == [3, 17]
    with pytest.raises(InputError, match="0003 of"):
        StoredImages(records)


def test_a_full_cache_is_found_out_before_the_decoding(flat_lmdb, monkeypatch):
    usage = shutil.disk_usage(flat_lmdb)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    before = {path for path in (cache_folder() / "images").iterdir() if path.is_dir()}
    with pytest.raises(InputError, match=r"--data\.cache false"):
        StoredImages(LMDBDataset(flat_lmdb, 32, 299))
    assert {path for path in (cache_folder() / "images").iterdir() if path.is_dir()} == before


def test_a_cache_that_cannot_be_written_is_named(flat_lmdb, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nobody")
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        StoredImages(LMDBDataset(flat_lmdb, 32))
    assert LSUNDataModule(str(flat_lmdb), image_size=32, cache=False).dataset[5][1] == 5


def test_several_runs_do_the_work_once(flat_lmdb, tmp_path):
    program = "import logging, sys; logging.basicConfig(level='INFO', stream=sys.stdout)\n"
    program += "from glo_lightning.store import StoredImages, LMDBDataset\n"
    program += f"StoredImages(LMDBDataset({str(flat_lmdb)!r}, 64, 290))"
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [run.communicate(timeout=100)[0] for run in runs]
    assert sorted(int(re.search(r"decoded (\d+) of 290", text)[1]) for text in said) == [0, 0, 290]


def test_images_on_the_device_are_the_same(flat_lmdb, monkeypatch):
    data = LSUNDataModule(str(flat_lmdb), image_size=32, batch_size=50, device_resident="true")
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    for batch in data.train_dataloader():
        assert batch.dtype == torch.int64
        images, index = data.on_after_batch_transfer(batch, 0)
        assert torch.equal(rows_of(((images + 1) * 127.5).round()), index)


def test_held_out_rows_are_the_last_and_in_no_batch(flat_lmdb):
    data = LSUNDataModule(flat_lmdb, num_samples=100, holdout=20, image_size=32, batch_size=7)
    trained = torch.cat([index for _, index in data.train_dataloader()])
    assert (
        sorted(trained.tolist())
        == list(range(80))
        == sorted(torch.cat([i for _, i in data.ordered_dataloader()]).tolist())
    )
    ((images, index),) = list(data.val_dataloader())
    assert index.tolist() == list(range(80, 96))
    assert torch.equal(rows_of(images), index)


def test_the_digest_is_that_of_the_rows_alone(flat_lmdb):
    held, plain = LSUNDataModule(flat_lmdb, 100, holdout=20), LSUNDataModule(flat_lmdb, 80)
    assert held.state_dict()["keys_digest"] == plain.state_dict()["keys_digest"]


@pytest.mark.parametrize("holdout", [300, 400, -1])
def test_a_holdout_as_large_as_the_set_is_named(flat_lmdb, holdout):
    with pytest.raises(InputError, match="holdout"):
        _ = LSUNDataModule(flat_lmdb, holdout=holdout).num_images
