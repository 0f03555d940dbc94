"""scripts/studies/baselines at its smallest."""

import json

import torch
from baselines import Autoencoder, kl_divergence
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
    parts = (Generator(3, 32, width=2), torch.nn.MSELoss())
    model = Autoencoder(3, *parts, 32, 2, variational=True, divergence_weight=0.5)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.manual_seed(1)
    loss = model.training_step((images, None), 0)
    torch.manual_seed(1)
    mean, log_variance = model.encoder(images).chunk(2, dim=1)
    sample = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    expected = (model.generator(sample) - images).square().mean()
    torch.testing.assert_close(loss, expected + 0.5 * kl_divergence(mean, log_variance) / (3 * 32 * 32))
    assert torch.equal(model.eval().encode(images), model.encoder(images)[:, :3])


def test_each_baseline_is_trained_and_measured(tiny_run, tmp_path):
    file = tmp_path / "baselines.json"
    arguments = ("--seconds=0.05", "--seeds=1", "--steps=2", "--num=8", "--starts", "mean", "--precision=32-true")
    table = run_study("baselines/baselines", tiny_run, "--json", file, *arguments)
    runs = json.loads(file.read_text())["runs"]
    assert len(runs) == 5
    for name, (measured,) in runs.items():
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
        assert f"| {measured['held-out PSNR, dB']:.2f} |" in line
