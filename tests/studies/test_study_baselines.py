"""scripts/studies/baselines.py at its smallest."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
from baselines import Autoencoder, divergence
from conftest import REPOSITORY, TINY
from torch.distributions import Independent, Normal, kl_divergence

from glo_lightning.generator import Generator

STUDIES = REPOSITORY / "scripts" / "studies"


def test_the_divergence_is_that_of_torchs_distributions():
    mean, log_variance = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    encoded = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    standard = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(divergence(mean, log_variance), kl_divergence(encoded, standard).mean())


def test_a_variational_encoder_adds_its_divergence_per_pixel():
    torch.manual_seed(0)
    made = Autoencoder(3, Generator(3, 32, 2), torch.nn.MSELoss(), 32, 2, variational=True, divergence_weight=0.5)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.manual_seed(1)
    loss = made.training_step((images, None), 0)
    torch.manual_seed(1)
    mean, log_variance = made.encoder(images).chunk(2, dim=1)
    drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    expected = (made.generator(drawn) - images).square().mean()
    torch.testing.assert_close(loss, expected + 0.5 * divergence(mean, log_variance) / (3 * 32 * 32))
    assert torch.equal(made.eval().encode(images), made.encoder(images)[:, :3])


def test_baselines_are_trained_once_and_show_the_samples_deviation(run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    assert run(*TINY, "--data.holdout=8", "--max_epochs=1", "--output", folder)[0] == 0
    arguments = (
        "--seconds=0.05",
        "--seeds=2",
        "--steps=2",
        "--num=8",
        "--starts",
        "mean",
        "--json",
        tmp_path / "b.json",
    )
    monkeypatch.setattr(sys, "argv", ["baselines.py", str(folder), *map(str, arguments), "--overwrite"])
    tables = []
    for _ in range(2):
        runpy.run_path(str(STUDIES / "baselines.py"), run_name="__main__")
        output = capsys.readouterr().out
        tables.append(output[output.index("| 0.05 seconds each") :])
        monkeypatch.setattr("harness.train", lambda *_, **__: pytest.fail("trained again"))
    assert tables[0] == tables[1]
    results = json.loads((folder / "baselines_0.05s.json").read_text())
    assert results == json.loads((tmp_path / "b.json").read_text())
    assert len(results) == 5
    for name, entry in results.items():
        psnr = [run["holdout"]["psnr"] for run in entry["runs"]]
        (line,) = [line for line in tables[0].splitlines() if line.startswith(f"| {name} |")]
        assert f"| {np.mean(psnr):.2f} ± {np.std(psnr, ddof=1):.2f} |" in line
