from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, encode, flat_image, rows_of, write_lmdb

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError
from glo_lightning.memory import fits_on_gpu


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


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """30 records, of which two are not images."""
    records = {b"%040x" % row: b"hello" if row in (3, 17) else encode(flat_image(row)) for row in range(30)}
    return write_lmdb(tmp_path_factory.mktemp("mixed") / "lmdb", records)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_never_shifts_a_row(mixed, cached, workers, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = {"batch_size": 7, "num_workers": workers, "cache": cached, "on_invalid_image": "skip"}
    data = LSUNDataModule(mixed, image_size=32, **options)
    batches = list(data.train_dataloader())
    assert all(torch.equal(rows_of(images), index) for images, index in batches)
    assert sorted(torch.cat([index for _, index in batches]).tolist()) == sorted({*range(30)} - {3, 17})
    assert data.num_images == 30
    assert (workers and not cached) or f"{17:040x}" in caplog.text
    assert data.skipped == [3, 17]
    again = LSUNDataModule(mixed, image_size=32, **options)
    again.load_state_dict(data.state_dict())
    assert again.skipped == [3, 17]


@pytest.mark.parametrize("cached", [True, False])
def test_skipped_rows_have_no_pixels(mixed, cached):
    data = LSUNDataModule(mixed, image_size=32, cache=cached, on_invalid_image="skip")
    images, rows = data.dataset[range(16, 19)]
    assert rows.tolist() == rows_of(images).tolist() == [16, 18]
    with pytest.raises(InputError, match="is not an image"):
        _ = data.dataset[3]


def test_held_out_copies_of_training_images_are_reported(tmp_path, caplog):
    nearly = flat_image(1, size=32)
    nearly[0, 0] = 255
    images = [*(flat_image(row, size=32) for row in range(8)), nearly, flat_image(2, size=32)]
    records = {b"image %d" % row: encode(image, "BMP" if row == 9 else "PNG") for row, image in enumerate(images)}
    data = LSUNDataModule(write_lmdb(tmp_path / "lmdb", records), image_size=32, batch_size=4, holdout=2)
    data.setup("fit")
    assert "1 of 2 held-out images have the pixels of a training image, such as image 9" in caplog.text


@pytest.mark.parametrize("cached", [True, False])
def test_held_out_rows_that_are_not_images_are_passed_over(mixed, cached):
    data = LSUNDataModule(mixed, image_size=32, holdout=14, cache=cached, on_invalid_image="skip")  # 16 to 29
    assert data.holdout_rows(3) == [16, 18, 19]
    ((images, rows),) = data.val_dataloader()
    assert rows.tolist() == rows_of(images).tolist() == [16, *range(18, 30)]


def test_a_streamed_batch_without_an_image_is_left_out(mixed):
    data = LSUNDataModule(mixed, image_size=32, batch_size=1, cache=False, on_invalid_image="skip")
    assert sorted(index.item() for _, index in data.train_dataloader()) == sorted({*range(30)} - {3, 17})


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("init", ["pca", "random"])
def test_a_run_without_any_image_ends_in_one_line(run, tmp_path, cached, init):
    folder = write_lmdb(tmp_path / "lmdb", {b"%d" % row: b"a Caffe Datum" for row in range(12)})
    flags = ("--data.on_invalid_image=skip", f"--data.cache={cached}", f"--model.init={init}", "--max_epochs=1")
    status, line = run("--data.root", folder, *TINY[1:], *flags)
    assert (status, line) == (2, f"--data.root {folder}: none of its 12 images can be used. Give other images.")


LSUN = torch.empty(3_033_042, 3, 64, 64, dtype=torch.uint8, device="meta")  # 37 GB, allocated nowhere


@pytest.mark.parametrize(
    ("free", "batch_size", "fits"), [(47e9, 128, True), (47e9, 4096, False), (39e9, 128, False), (80e9, 1024, True)]
)
def test_images_are_kept_on_a_gpu_that_has_room_for_a_step_beside_them(monkeypatch, caplog, free, batch_size, fits):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(free)))
    with caplog.at_level("INFO", "glo_lightning"):
        assert fits_on_gpu(LSUN, torch.device("cuda"), batch_size) == fits
    assert f"images stay on the {'device' if fits else 'host'}: they take 37.3 GB" in caplog.text


def test_images_on_the_device_are_the_same_and_leave_it_after_the_fit_and_for_another_device(flat_lmdb):
    data = LSUNDataModule(str(flat_lmdb), image_size=32, batch_size=50, cache_on_device=True)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)
    for batch in data.train_dataloader():
        assert batch.dtype == torch.int64
        images, index = data.on_after_batch_transfer(batch, 0)
        assert torch.equal(rows_of(((images + 1) * 127.5).round()), index)
    assert data.device_images.nbytes == 300 * 3 * 32 * 32
    strategy.root_device = torch.device("meta")
    data.train_dataloader()
    assert data.device_images.device.type == "meta"
    data.teardown("fit")
    assert data.device_images is None


def test_held_out_rows_are_the_last_and_in_no_batch(flat_lmdb):
    data = LSUNDataModule(flat_lmdb, num_samples=100, holdout=20, image_size=32, batch_size=7)
    for loader in (data.train_dataloader(), data.sequential_dataloader()):
        assert sorted(torch.cat([index for _, index in loader]).tolist()) == list(range(80))
    ((images, index),) = list(data.val_dataloader())
    assert index.tolist() == list(range(80, 96))
    assert torch.equal(rows_of(images), index)
    same_rows = LSUNDataModule(flat_lmdb, 80)
    assert data.state_dict()["keys_digest"] == same_rows.state_dict()["keys_digest"]


@pytest.mark.parametrize("holdout", [300, 400, -1])
def test_a_holdout_of_all_images_is_refused(flat_lmdb, holdout):
    with pytest.raises(InputError, match="holdout"):
        _ = LSUNDataModule(flat_lmdb, holdout=holdout).num_images
