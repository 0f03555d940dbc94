"""The last lines of a run: its images beside PCA's, what to do next, and what is poor."""

import json
import re
import signal
from functools import partial

import numpy as np
import pytest
import torch
from conftest import TINY
from sklearn.decomposition import PCA
from torch.nn import functional as F

from glo_lightning import GLO, LSUNDataModule
from glo_lightning.generator import SpatialGenerator
from glo_lightning.training import fit, summary

FLAGS = (*TINY, "--data.holdout=8", "--prior=null", "--max_epochs=1")


def decibels(images, targets):
    """PSNR of images in [0, 255], by NumPy."""
    return 10 * np.log10(255**2 / np.mean((np.clip(images, 0, 255) - targets) ** 2))


def test_a_run_ends_with_its_figures_beside_those_of_pca_and_with_what_is_next(run, tmp_path):
    assert run(*FLAGS, "--progress=none", "--output", tmp_path / "run") == (0, "")
    figures, following, poor = run.output.splitlines()[-3:]
    images = LSUNDataModule(num_samples=24, image_size=32).dataset[range(24)][0].numpy().astype(float)
    model = GLO.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt").eval()
    with torch.no_grad():
        generated = 127.5 * (1 + model(model.latents.weight).numpy())
    flat = images.reshape(24, -1)
    pca = PCA(6).fit(flat[:16])
    reconstructed = pca.inverse_transform(pca.transform(flat))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    expected = [decibels(generated, images[:16]), decibels(reconstructed[:16], flat[:16]), metrics["val/psnr"]]
    expected.append(decibels(reconstructed[16:], flat[16:]))
    pattern = "PSNR of 16 training images X dB (PCA with 6 dimensions X), of held-out images X dB (PCA X)"
    numbers = re.fullmatch(re.escape(pattern).replace("X", r"(\d+\.\d)"), figures).groups()
    assert [float(number) for number in numbers] == pytest.approx(expected, abs=0.051)
    names = ("train/psnr", "train/psnr_pca", "val/psnr", "val/psnr_pca")
    assert [metrics[name] for name in names] == pytest.approx(expected, abs=0.01)
    assert following == f"next: python browse.py {tmp_path / 'run'}"
    assert poor.startswith("poor: training images are below PCA")  # held-out ones are, too
    assert "16 images are too few to sample from (a flow needs 500" in poor


def test_measuring_many_images_takes_some_and_leaves_the_random_numbers_alone(monkeypatch):
    monkeypatch.setattr(summary, "MAX_MEASURED", 10)
    data = LSUNDataModule(num_samples=60, image_size=16)
    model, before = GLO(60, latent_dim=45, image_size=16), torch.get_rng_state()
    measured = summary.measure(model, data, {})
    assert measured.keys() == {"train/psnr", "train/psnr_images"}  # a PCA of 40 images has no 45 dimensions
    assert measured["train/psnr_images"] == 10
    assert torch.equal(before, torch.get_rng_state())


def test_codes_with_places_of_few_images_are_compared_with_a_pca_of_patches():
    """An image has four patches, which 20 images have enough of for eight dimensions each."""
    data = LSUNDataModule(num_samples=24, image_size=16, holdout=4)
    model = GLO(20, latent_dim=32, image_size=16, generator=partial(SpatialGenerator, width=4, side=2))
    images = data.dataset[[*range(20), *data.holdout_rows(4)]][0]
    flat = F.unfold(images.float(), 8, stride=8).transpose(1, 2)  # (24, 4, 192)
    pca = PCA(8).fit(flat[:20].flatten(0, 1))
    reconstructed = pca.inverse_transform(pca.transform(flat.flatten(0, 1))).reshape(flat.shape)
    measured = summary.measure(model, data, {})
    expected = [decibels(reconstructed[part], flat[part].numpy()) for part in (slice(20), slice(20, None))]
    assert [measured["train/psnr_pca"], measured["val/psnr_pca"]] == pytest.approx(expected, abs=0.01)
    line = summary._figures({**measured, "num_images": 20}, 32)
    assert f"(PCA of patches with 32 dimensions {expected[0]:.1f})" in line


def test_epochs_that_are_not_validated_have_no_pictures_and_the_last_ones_images_are_measured(run, tmp_path):
    every = ("--check_val_every_n_epoch=2", "--max_epochs=3", "--enable_progress_bar=true")
    assert run(*FLAGS[:-1], *every, "--output", tmp_path / "run") == (0, "")
    assert ["val/psnr" in line for line in run.output.splitlines() if line.startswith("epoch")] == [False, True, False]
    pictures = (tmp_path / "run" / "images").glob("reconstructions*")
    assert sorted(file.name[-7:-4] for file in pictures) == ["001", "002"]
    last = json.loads((tmp_path / "run" / "metrics.json").read_text())["val/psnr"]
    assert f"of held-out images {last:.1f} dB" in run.output


GOOD = {"train/psnr": 30.0, "train/psnr_pca": 25.0, "val/psnr": 29.0, "num_images": 1000, "epoch": 5}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ()),
        ({"train/psnr": 24.0}, ("below PCA", "--resume run --max_epochs 10", "SkipGenerator")),
        ({"train/psnr": 24.0, "num_images": 500, "latent_dim": 200}, ()),  # such a PCA remembers the images
        ({"train/psnr": 5.9, "val/psnr": 5.5}, ("worse than plain grey", "--model.optimizer.lr")),
        ({"val/psnr": 26.9}, ("3.1 dB below", "photographs.yaml")),
        ({"num_images": 499}, ("499 images are too few", "500", "mixture")),
    ],
)
def test_what_is_poor_is_said_where_it_is_so(changed, expected):
    metrics = {**GOOD, **changed}
    model = GLO(1, latent_dim=metrics.pop("latent_dim", 8), image_size=16, init="random")
    poor = "; ".join(summary.poor_results(metrics, model, "run"))
    assert all(text in poor for text in expected)
    assert bool(poor) == bool(expected)


def test_a_signal_while_the_run_is_measured_ends_it_without_the_lines(run, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "summarize", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run(*FLAGS, "--output", tmp_path / "run") == (143, "Stopped after the last step. The run is finished.")
    assert "PSNR of" not in run.output


def test_a_run_that_is_stopped_has_no_last_lines(run, tmp_path, monkeypatch):
    stop = lambda *_: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr("glo_lightning.training.callbacks.ReconstructionGrid.on_train_batch_end", stop, raising=False)
    assert run(*FLAGS, "--output", tmp_path / "run")[0] == 143
    assert not any(word in run.output for word in ("PSNR", "next:", "poor:"))
