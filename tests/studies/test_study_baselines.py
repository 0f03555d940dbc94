"""scripts/studies/baselines at its smallest."""

import json

import numpy as np
import pytest
import torch
from baselines import Autoencoder, kl_divergence
from conftest import TINY
from run_study import run_study
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as torchs

from glo_lightning.generator import Generator


def test_the_divergence_is_that_of_torchs_distributions():
    mean, log_variance = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    encoded = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    standard = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), torchs(encoded, standard).mean())


def test_a_variational_encoder_adds_its_divergence_per_pixel():
    torch.manual_seed(0)
    model = Autoencoder(
        3, Generator(3, 32, width=2), torch.nn.MSELoss(), 32, 2, variational=True, divergence_weight=0.5
    )
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.manual_seed(1)
    loss = model.training_step((images, None), 0)
    torch.manual_seed(1)
    mean, log_variance = model.encoder(images).chunk(2, dim=1)
    sample = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    expected = (model.generator(sample) - images).square().mean()
    torch.testing.assert_close(loss, expected + 0.5 * kl_divergence(mean, log_variance) / (3 * 32 * 32))
    assert torch.equal(model.eval().encode(images), model.encoder(images)[:, :3])


def test_baselines_are_trained_once_and_show_the_samples_deviation(run, tmp_path, monkeypatch):
    folder, file = tmp_path / "run", tmp_path / "baselines.json"
    assert run(*TINY, "--data.holdout=8", "--max_epochs=1", "--output", folder)[0] == 0
    arguments = ("--seconds=0.05", "--seeds=2", "--steps=2", "--num=8", "--starts", "mean", "--precision=32-true")
    table = run_study("baselines/baselines", folder, "--json", file, *arguments)
    monkeypatch.setattr("harness.train", lambda *_, **__: pytest.fail("trained again"))
    assert run_study("baselines/baselines", folder, "--json", file, *arguments) == table
    runs = json.loads(file.read_text())["runs"]
    assert len(runs) == 5
    for name, measured in runs.items():
        psnr = [run["held-out PSNR, dB"] for run in measured]
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
        assert f"| {np.mean(psnr):.2f} ± {np.std(psnr, ddof=1):.2f} |" in line
