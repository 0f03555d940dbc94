"""``--data.flip true``: image i owns rows 2i and 2i + 1, the second mirrored out of the one stored copy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, encode, flat_image, load, write_lmdb

from glo_lightning import GLO, LSUNDataModule, load_run
from glo_lightning.data.source import key_table
from glo_lightning.data.sources.arrays import ArraySource
from glo_lightning.images import from_uint8

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 3, 16, 16), np.uint8))
LABELS = [str(number) for number in range(10)]


def data_of(**options) -> LSUNDataModule:
    options = {"image_size": 16, "batch_size": 4, "flip": True} | options
    return LSUNDataModule(source=ArraySource(IMAGES, LABELS), **options)


def expected(row: int) -> torch.Tensor:
    return IMAGES[row // 2].flip(-1) if row % 2 else IMAGES[row // 2]


@pytest.mark.parametrize("cache", [True, False])
def test_odd_rows_are_mirror_images(cache):
    data = data_of(cache=cache)
    assert (data.num_images, len(data.dataset)) == (20, 20)
    assert all(torch.equal(data.dataset[row][0], expected(row)) for row in range(20))
    images, rows = data.dataset[[7, 0, 12, 19]]
    assert rows.tolist() == [7, 0, 12, 19]
    assert torch.equal(images, torch.stack([expected(row) for row in rows.tolist()]))


def test_one_copy_is_stored():
    assert data_of().dataset.images.shape == (10, 3, 16, 16)


@pytest.mark.parametrize("options", [{}, {"cache": False}, {"cache_on_device": "true"}])
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_step_sees_each_row_as_it_is_whatever_the_way_to_the_device(options):
    data = data_of(**options)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    seen = []
    for batch in data.train_dataloader():
        images, rows = data.on_after_batch_transfer(batch, 0)
        assert torch.equal(images, from_uint8(torch.stack([expected(row) for row in rows.tolist()])))
        seen += rows.tolist()
    assert sorted(seen) == list(range(20))
    for images, rows in data.sequential_dataloader():  # of the PCA
        assert torch.equal(images, torch.stack([expected(row) for row in rows.tolist()]))


def test_numbers_count_images_and_twins_stay_together():
    data = data_of(num_samples=8, holdout=3)
    assert (data.num_images, len(data.source)) == (10, 16)
    assert data.holdout_rows(9) == [10, 12, 14]
    assert data.original_rows(3) == [0, 2, 4]
    (batch,) = data.val_dataloader()
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], from_uint8(IMAGES[5:8]))


def test_digest_and_keys_tell_twins_apart_and_labels_do_not():
    data = data_of()
    keys = [bytes(key)[:length] for length, key in key_table(data.source).tolist()]
    assert keys[:3] == [b"train/0", b"train/0 mirrored", b"train/1"]
    assert data.state_dict()["keys_digest"] != data_of(flip=False).state_dict()["keys_digest"]
    assert data.attributes.rows(["class=3"]).tolist() == [6, 7]


def test_a_bad_record_takes_its_mirror_image_with_it(tmp_path):
    records = {b"%02x" % row: encode(flat_image(row)) for row in range(6)} | {b"02": b"hello"}
    data = LSUNDataModule(write_lmdb(tmp_path / "a", records), image_size=32, flip=True, on_invalid_image="skip")
    assert data.dataset.skipped.tolist() == [4, 5]
    assert sorted(torch.cat([rows for _, rows in data.train_dataloader()]).tolist()) == [0, 1, 2, 3, *range(6, 12)]


def test_a_run_with_mirror_images_shows_originals_and_goes_on(run, tmp_path):
    flags = (*TINY, "--data.flip=true", "--data.num_samples=12", "--data.holdout=2", "--prior=null")
    assert run(*flags, "--max_epochs=2", "--output", tmp_path / "whole") == (0, "")
    assert run(*flags, "--max_epochs=1", "--output", tmp_path / "a", "--model.schedule=constant") == (0, "")
    assert load(tmp_path / "a")["hyper_parameters"]["num_images"] == 20
    assert run("--resume", tmp_path / "a", "--max_epochs=2") == (0, "")
    status, line = run("--resume", tmp_path / "a", "--max_epochs=3", "--data.flip=false")
    assert (status, line.split(";")[0]) == (2, "--data.num_samples 10: rows are needed now, and the checkpoint has 20")
    trained = load_run(tmp_path / "whole", "cpu")
    assert torch.equal(trained.originals(torch.tensor([5, 4, 1])), trained.images([4, 4, 0]))
    assert isinstance(trained.model, GLO)
