"""Properties that hold for whatever hypothesis comes up with."""

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, write_lmdb
from glo_lightning.lmdb_dataset import LMDBDataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils.data import Dataset

from glo_lightning.data import BatchSampler, ResumableLoader
from glo_lightning.errors import InputError
from glo_lightning.latents import to_ball, to_sphere
from glo_lightning.losses import LaplacianLoss

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def floats(limit: float) -> st.SearchStrategy:
    return st.floats(-limit, limit, width=32)


pixels = arrays.arrays(np.float32, (2, 3, 32, 32), elements=floats(1), fill=floats(1)).map(torch.from_numpy)
tables = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=floats(2.0**60), fill=floats(4)
).map(torch.from_numpy)


@quick
@given(pixels, pixels, st.integers(0, 5))
def test_the_loss_is_a_distance(fakes, images, levels):
    loss = LaplacianLoss(levels, image_size=32)
    distance, other = float(loss(fakes, images)), torch.zeros_like(images)
    assert float(loss(images, images)) == 0
    assert distance >= 0
    assert distance == pytest.approx(float(loss(images, fakes)), rel=1e-5, abs=1e-7)
    assert distance <= float(loss(fakes, other) + loss(other, images)) * (1 + 1e-5) + 1e-6
    assert distance > 0 or (fakes - images).abs().max() < 1e-30


@quick
@given(tables)
def test_projection_ends_in_the_set_and_keeps_what_is_there(codes):
    ball, sphere = to_ball(codes), to_sphere(codes)
    norms = codes.double().norm(dim=1)
    assert (ball.double().norm(dim=1) <= 1 + 1e-5).all()
    assert torch.equal(ball[norms < 0.999], codes[norms < 0.999])
    torch.testing.assert_close(to_ball(ball), ball)
    long = norms > 1e-15  # shorter ones have a square of zero in float32
    torch.testing.assert_close(sphere[long].norm(dim=1), torch.ones(int(long.sum())), atol=1e-4, rtol=0)
    assert torch.isfinite(sphere).all()


class _Index(Dataset):
    def __getitem__(self, rows):
        return rows


@quick
@given(st.data())
def test_an_epoch_resumed_anywhere_and_often_has_every_row_once_in_the_same_order(data):
    num_images = data.draw(st.integers(1, 60), "images")
    batch_size = data.draw(st.integers(1, 20), "batch size")
    skipped = data.draw(st.lists(st.integers(0, num_images - 1), unique=True, max_size=num_images - 1), "skipped")
    epoch, seed = data.draw(st.integers(0, 5), "epoch"), data.draw(st.integers(0, 99), "seed")

    def loader():
        sampler = BatchSampler(num_images, batch_size, seed, skipped=skipped)
        sampler.set_epoch(epoch)
        return ResumableLoader(_Index(), sampler=sampler, batch_size=None)

    whole, seen, state = list(loader()), [], None
    for stop in [*sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4), "stops")), len(whole)]:
        resumed = loader()
        if state is not None:
            resumed.load_state_dict(state)
        batches = iter(resumed)
        while len(seen) < stop:
            seen.append(next(batches))
        state = resumed.state_dict()
    assert seen == whole
    assert sorted(row for batch in seen for row in batch) == sorted({*range(num_images)} - set(skipped))
    again = loader()
    again.load_state_dict({**state, "yielded": 0})
    assert list(again) == whole


@quick
@given(st.binary(max_size=300) | st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=20)))
def test_random_bytes_are_an_image_or_an_error_that_is_ours(tmp_path_factory, record):
    if isinstance(record, tuple):  # an image, overwritten somewhere
        place, noise = record
        image = encode(flat_image(3))
        record = image[:place] + noise + image[place + len(noise) :]
    folder = write_lmdb(tmp_path_factory.mktemp("noise") / "lmdb", {b"key": record})
    dataset = LMDBDataset(folder, 32)
    try:
        image = dataset[0][0]
    except InputError:
        return
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)
