from pathlib import Path

import pytest
from conftest import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


@pytest.fixture
def trained(run, tmp_path) -> Path:
    """A run of two epochs in three batches each."""
    assert run(*TINY, "--output", tmp_path / "trained", "--max_epochs", 2) == (0, "")
    return tmp_path / "trained"


def test_tensorboard_has_the_tags(trained):
    accumulator = events(trained)
    tags = accumulator.Tags()
    scalars = {"train/loss", "train/loss_epoch", "latents/norm_mean", "latents/moved", "train/images_per_second"}
    assert scalars | {"lr-SGD/generator", "lr-SGD/latents"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"targets", "reconstructions", "samples"}
    assert [event.step for event in accumulator.Scalars("train/loss_epoch")] == [2, 5]
    for tag in ("reconstructions", "samples"):
        assert [event.step for event in accumulator.Images(tag)] == [2, 5]
