import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, curves, events, load, train
from PIL import Image
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from glo_lightning.data import LSUNDataModule
from glo_lightning.module import GLO
from glo_lightning.priors.gaussian import Gaussian
from glo_lightning.training.callbacks import Curves, _make_pairs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs in three batches each."""
    return train(tmp_path_factory.mktemp("callbacks") / "run", "--max_epochs=2", "--model.latent_lr=2")


def cells(file, size: int = 32) -> np.ndarray:
    """The images of a grid, eight in a row with two pixels between them, (n, size, size, 3)."""
    pixels = np.asarray(Image.open(file)).astype(int)
    rows, columns = ((side - 2) // (size + 2) for side in pixels.shape[:2])
    corners = [(2 + (size + 2) * row, 2 + (size + 2) * column) for row in range(rows) for column in range(columns)]
    return np.stack([pixels[y : y + size, x : x + size] for y, x in corners])


def bytes_of(images: torch.Tensor) -> np.ndarray:
    return ((images.permute(0, 2, 3, 1).numpy() + 1) * 127.5 + 0.5).astype(int)


def test_the_grids_show_the_targets_and_what_the_generator_makes_of_their_codes_in_eval_mode(trained):
    data = LSUNDataModule(num_samples=24, image_size=32)
    targets = data.dataset[list(range(24))][0].permute(0, 2, 3, 1).numpy()
    assert np.array_equal(cells(trained / "images" / "targets.png"), targets)
    model = GLO.load_from_checkpoint(trained / "checkpoints" / "last.ckpt")
    with torch.no_grad():
        in_training = bytes_of(model.train()(model.latents.weight))
        model.load_state_dict(load(trained)["state_dict"])  # BatchNorm's averages have moved
        expected = bytes_of(model.eval()(model.latents.weight))
        samples = model.project(Gaussian().fit(model.latents.weight).sample(64, seed=0))
        expected_samples = bytes_of(model(samples))
    shown = cells(trained / "images" / "reconstructions_epoch_001.png")
    assert np.abs(shown - expected).max() <= 1
    assert np.abs(shown - in_training).max() > 8
    assert np.abs(cells(trained / "images" / "samples_epoch_001.png") - expected_samples).max() <= 1


def test_tensorboard_shows_each_row_of_targets_above_its_reconstructions(trained):
    shown = cells(io.BytesIO(events(trained).Images("reconstructions")[-1].encoded_image_string))
    rows = shown.reshape(2 * 3, 8, *shown.shape[1:])
    for row, file in enumerate(["targets.png", "reconstructions_epoch_001.png"]):
        assert np.abs(rows[row::2].reshape(shown[:24].shape) - cells(trained / "images" / file)).max() <= 1


@pytest.mark.parametrize(("number", "columns"), [(3, 3), (8, 8), (20, 8)])
def test_pairs_of_a_few_images_stand_above_each_other(number, columns):
    targets, images = (torch.full((number, 3, 4, 4), value) for value in (1.0, -1.0))
    grid = _make_pairs(targets, images)[0, 2::6, 2::6]
    assert grid.tolist() == [[1.0] * columns, [0.0] * columns] * (number // columns)


def test_tensorboard_has_the_tags_at_their_steps(trained):
    accumulator = events(trained)
    tags = accumulator.Tags()
    scalars = {"train/loss", "train/loss_epoch", "latents/norm_mean", "latents/moved", "train/images_per_second"}
    scalars |= {"lr-SGD/generator", "lr-SGD/latents"}
    assert scalars <= set(tags["scalars"])
    assert set(tags["images"]) == {"targets", "reconstructions", "samples"}
    (layout,) = accumulator.Tensors("custom_scalars__config__")
    layout = Layout.FromString(layout.tensor_proto.string_val[0])
    charts = [chart for category in layout.category for chart in category.chart]
    assert charts[0].title == "loss"
    patterns = [pattern for chart in charts for pattern in chart.multiline.tag]
    assert all(any(re.match(pattern, tag) for tag in scalars) for pattern in patterns if "val" not in pattern)
    assert [event.step for event in accumulator.Scalars("train/loss_epoch")] == [2, 5]
    for tag in ("reconstructions", "samples"):
        assert [event.step for event in accumulator.Images(tag)] == [2, 5]
    checkpoint = load(trained)
    codes = checkpoint["state_dict"]["latents.weight"].double().numpy()
    moved = np.linalg.norm(codes - checkpoint["initial_codes"].double().numpy(), axis=1).mean()
    assert accumulator.Scalars("latents/moved")[-1].value == pytest.approx(moved, rel=1e-5)
    norm = np.linalg.norm(codes, axis=1).mean()
    assert accumulator.Scalars("latents/norm_mean")[-1].value == pytest.approx(norm, rel=1e-5)


def test_the_epochs_loss_is_summed_in_single_precision():
    """Of 600 losses in bfloat16 the running sum would stand still at 256 of them."""
    curves, losses = Curves(), torch.linspace(1, 2, 600).bfloat16()
    trainer = SimpleNamespace(accumulate_grad_batches=1, log_every_n_steps=0, is_last_batch=False)
    for number, loss in enumerate(losses):
        curves.on_train_batch_end(trainer, None, {"loss": loss}, (None, torch.tensor([number])), number)
    total, images = curves.total.tolist()
    assert (total, images) == (pytest.approx(float(losses.double().sum()), rel=1e-3), 600)


def test_the_epochs_loss_is_the_mean_over_its_images(run, tmp_path):
    flags = ("--data.num_samples=25", "--max_epochs=1", "--log_every_n_steps=1")
    run(*TINY, *flags, "--output", tmp_path / "run")
    losses = [loss for _, loss in curves(tmp_path / "run")["train/loss"]]
    ((_, epoch),) = curves(tmp_path / "run")["train/loss_epoch"]
    assert epoch == pytest.approx(np.average(losses, weights=[7, 6, 6, 6]), rel=1e-5)
