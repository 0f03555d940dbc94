"""``--data.flip true``: image i owns rows 2i and 2i + 1, the second its mirror image."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, encode, flat_image, load, write_lmdb

from glo_lightning import LSUNDataModule
from glo_lightning.data.digests import key_table
from glo_lightning.data.sources.arrays import ArraySource
from glo_lightning.images import from_uint8

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 3, 16, 16), np.uint8))
LABELS = [str(number) for number in range(10)]


def data_of(**options) -> LSUNDataModule:
    options = {"image_size": 16, "batch_size": 4, "flip": True} | options
    return LSUNDataModule(source=ArraySource(IMAGES, LABELS), **options)


def expected(rows: torch.Tensor) -> torch.Tensor:
    return torch.stack([IMAGES[row // 2].flip(-1) if row % 2 else IMAGES[row // 2] for row in rows.tolist()])


@pytest.mark.parametrize("options", [{}, {"cache": False}, {"cache_on_device": True}])
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_step_sees_image_and_mirror_image_in_rows_of_their_own(options):
    data = data_of(**options)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)
    seen = []
    for batch in data.train_dataloader():
        images, rows = data.on_after_batch_transfer(batch, 0)
        assert torch.equal(images, from_uint8(expected(rows)))
        seen += rows.tolist()
    assert sorted(seen) == list(range(data.num_images)) == list(range(20))
    for images, rows in data.sequential_dataloader():  # of the PCA
        assert torch.equal(images, expected(rows))


def test_numbers_count_images_and_held_out_images_are_not_mirrored():
    data = data_of(num_samples=8, holdout=3)
    assert (data.num_images, len(data.source), data.holdout_rows(9)) == (10, 13, [10, 11, 12])
    (batch,) = data.val_dataloader()
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], from_uint8(IMAGES[5:8]))
    assert data.attributes.rows(["class=6"]).tolist() == [11]


def test_no_other_images_share_the_cache():
    choices = [{"num_samples": 8, "flip": False}, {"num_samples": 4}, {"num_samples": 5, "holdout": 2}]
    files = [data_of(**options).dataset.file for options in choices]
    assert [len(data_of(**options).source) for options in choices] == [8] * 3
    assert len({file for file in files if file.exists()}) == 3


def test_digest_and_keys_tell_images_from_mirror_images_and_labels_do_not():
    data = data_of()
    keys = [bytes(key)[:length] for length, key in key_table(data.source).tolist()]
    assert keys[:3] == [b"train/0", b"train/0 mirrored", b"train/1"]
    assert data.state_dict()["keys_digest"] != data_of(flip=False).state_dict()["keys_digest"]
    assert data.attributes.rows(["class=3"]).tolist() == [6, 7]


def test_an_invalid_image_takes_its_mirror_image_with_it(tmp_path):
    records = {b"%02x" % row: encode(flat_image(row)) for row in range(6)} | {b"02": b"hello"}
    data = LSUNDataModule(write_lmdb(tmp_path / "a", records), image_size=32, flip=True, on_invalid_image="skip")
    assert data.dataset.skipped == [4, 5]
    assert sorted(torch.cat([rows for _, rows in data.train_dataloader()]).tolist()) == [0, 1, 2, 3, *range(6, 12)]


def test_a_run_with_mirror_images_is_resumed_with_them(run, tmp_path):
    flags = (*TINY, "--data.flip=true", "--data.num_samples=12", "--data.holdout=2", "--prior=null")
    assert run(*flags, "--max_epochs=1", "--output", tmp_path / "a", "--model.schedule=constant") == (0, "")
    assert load(tmp_path / "a")["hyper_parameters"]["num_images"] == 20
    assert run("--resume", tmp_path / "a", "--max_epochs=2") == (0, "")
    status, line = run("--resume", tmp_path / "a", "--max_epochs=3", "--data.flip=false")
    assert (status, line.split(";")[0]) == (2, "--data.num_samples 10: the checkpoint was made with 20")
