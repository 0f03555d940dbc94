import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from glo_lightning.data.sampler import ResumableLoader, RowBatchSampler
from glo_lightning.errors import InputError


@pytest.mark.parametrize(("num_images", "batch_size"), [(1, 8), (8, 8), (33, 8), (65, 8), (63, 8), (300, 128), (5, 1)])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_row_once_in_batches_that_differ_by_at_most_one(num_images, batch_size, world_size):
    if num_images // -(-num_images // batch_size) < world_size > 1:
        with pytest.raises(InputError, match=f"batch_size {batch_size}: .*fewer than the {world_size} processes"):
            RowBatchSampler(num_images, batch_size, 0, 0, world_size)
        return
    ranks = [list(RowBatchSampler(num_images, batch_size, 0, rank, world_size)) for rank in range(world_size)]
    batches = [[row for part in parts for row in part] for parts in zip(*ranks, strict=True)]
    sizes = [len(batch) for batch in batches]
    assert len(batches) == -(-num_images // batch_size)
    assert max(sizes) - min(sizes) <= 1
    assert sorted(row for batch in batches for row in batch) == list(range(num_images))
    sampler = RowBatchSampler(num_images, batch_size, 0, 0, world_size)
    for number, parts in enumerate(zip(*ranks, strict=True)):
        assert sampler.batch_sizes_by_rank(number) == [len(part) for part in parts]


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = RowBatchSampler(100, 10, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class _Index(Dataset):
    def __getitem__(self, rows):
        return rows


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@quick
@given(st.data())
def test_an_epoch_resumed_anywhere_and_often_has_every_row_once_in_the_same_order(data):
    num_images = data.draw(st.integers(1, 60), "images")
    batch_size = data.draw(st.integers(1, 20), "batch size")
    skipped = data.draw(st.lists(st.integers(0, num_images - 1), unique=True, max_size=num_images - 1), "skipped")
    epoch, seed = data.draw(st.integers(0, 5), "epoch"), data.draw(st.integers(0, 99), "seed")
    pinned = data.draw(st.booleans(), "pinned")

    def loader():
        sampler = RowBatchSampler(num_images, batch_size, seed, skipped=skipped)
        sampler.set_epoch(epoch)
        return ResumableLoader(_Index(), sampler=sampler, batch_size=None, pin_memory=pinned)

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


class _Recorded(Dataset):
    """Tells which batches have been asked for; the one of row 6 cannot be read."""

    def __init__(self):
        self.asked = []

    def __getitem__(self, rows):
        self.asked.append(rows)
        if 6 in rows:
            raise InputError("root", rows, "cannot be read")
        return rows


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_the_next_batch_is_read_while_one_is_in_use():
    dataset = _Recorded()
    loader = ResumableLoader(dataset, sampler=RowBatchSampler(8, 2), batch_size=None, pin_memory=True)
    batches = iter(loader)
    assert next(batches) == [0, 1]
    until = time.monotonic() + 10
    while len(dataset.asked) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert dataset.asked == [[0, 1], [2, 3]]
    assert loader.state_dict()["yielded"] == 1  # what nobody has trained on does not count
    assert [next(batches), next(batches)] == [[2, 3], [4, 5]]
    with pytest.raises(InputError, match="cannot be read"):
        next(batches)
