"""scripts/studies/baselines at its smallest."""

import json
import sys

import baselines
import torch
from autoencoders import RAE, VAE, Encoder, SecondVAE, draw, gaussian_loss, kl_divergence
from baselines import FLOOR, ROWS, fit_within
from harness import Results
from image_sets import write_mnist
from programs import refusal
from torch import nn
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as torchs

from glo_lightning import encoding
from glo_lightning.generator import Generator
from glo_lightning.priors.gaussian import Gaussian


class Shades(nn.Module):
    """Two features of images, uint8: mean and deviation."""

    def forward(self, images):
        return torch.stack(torch.std_mean(images.float().flatten(1), dim=1), dim=1)


def normals():
    random = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=random), torch.randn(5, 4, generator=random)


def test_the_divergence_is_that_of_torchs_distributions():
    mean, log_variance = normals()
    encoded = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    standard = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), torchs(encoded, standard).mean())


def test_the_likelihood_is_torchs_at_the_variance_that_suits_the_batch_best():
    generated, targets = normals()
    constant = 4 / 2 * (1 + torch.log(torch.tensor(2 * torch.pi)))  # what the loss leaves out
    deviations = torch.linspace(0.5, 3, 251)
    losses = [-Normal(generated, deviation).log_prob(targets).sum(1).mean() for deviation in deviations]
    torch.testing.assert_close(gaussian_loss(generated, targets) + constant, min(losses), atol=1e-3, rtol=0)


def test_a_vaes_loss_is_likelihood_plus_divergence_and_its_codes_are_means():
    torch.manual_seed(0)
    model = VAE(Encoder(6, 32, 3, width=2), Generator(3, 32, width=2))
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.manual_seed(1)
    loss = model.training_step((images, None), 0)
    torch.manual_seed(1)
    mean, log_variance = model.encoder(images).chunk(2, dim=1)
    nats = gaussian_loss(model.generator(draw(mean, log_variance)), images) + kl_divergence(mean, log_variance)
    torch.testing.assert_close(loss * 3 * 32 * 32, nats)
    assert torch.equal(model.eval().codes(model.encoder(images)), model.encoder(images)[:, :3])


def test_raes_terms_are_the_papers_on_images_from_0_to_1(monkeypatch):
    torch.manual_seed(0)
    model = RAE(Encoder(3, 32, 3, width=2), Generator(3, 32, width=2))
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    codes = model.encoder(images)
    error = ((model.generator(codes) + 1) / 2 - (images + 1) / 2).square().sum(1).mean()
    torch.testing.assert_close(model.objective(codes, images), error + 1e-4 * codes.square().mean())
    monkeypatch.setattr(model, "_trainer", type("Short", (), {"estimated_stepping_batches": 1})())
    encoders, generators = model.configure_optimizers()["optimizer"].param_groups
    assert (encoders["weight_decay"], generators["weight_decay"]) == (0, 2e-7)
    assert len(generators["params"]) == len(list(model.generator.parameters()))


def test_a_second_vae_finds_two_clusters_that_a_gaussian_does_not():
    random, state = torch.Generator().manual_seed(0), torch.get_rng_state()
    sides = 4.0 * torch.randint(2, (500, 1), generator=random) - 2
    codes = sides + 0.2 * torch.randn(500, 2, generator=random)
    prior = SecondVAE(steps=200, width=32).fit(codes)
    samples = prior.sample(1000, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(samples, prior.sample(1000, seed=3))
    gaussian = Gaussian().fit(codes).sample(1000, seed=3)
    near, by_gaussian = ((drawn.abs() - 2).norm(dim=1) < 1 for drawn in (samples, gaussian))
    assert near.float().mean() > 1.5 * by_gaussian.float().mean()


def test_a_prior_gets_the_steps_that_fit_into_its_seconds(monkeypatch):
    clock, fitted = [0.0], []

    class Slow:
        def __init__(self, steps):
            self.steps = steps

        def fit(self, codes):
            fitted.append(self.steps)
            clock[0] += 0.5 * self.steps * torch.get_num_threads()

    monkeypatch.setattr(baselines.time, "process_time", lambda: clock[0])
    assert fit_within(40, Slow, None, trial=10).steps == 80
    assert fitted == [10, 80]


def test_every_row_is_trained_and_measured_once(tmp_path, monkeypatch, capsys):
    """On 600 synthetic digits, in one step of each model and two of each prior."""
    write_mnist(tmp_path / "mnist", num_train=600)
    file, models = tmp_path / "table.json", {row.model for row in ROWS.values()}
    results = Results(file)
    results.steps = {f"mnist: {model}": 1 for model in models}
    results.write()
    monkeypatch.setattr(baselines, "N_PCA", 100)
    monkeypatch.setattr(baselines, "fit_within", lambda _, make, codes, **places: make(2).fit(codes, **places))
    monkeypatch.setattr(encoding, "TRIAL_STEPS", 1)
    small = ("--samples=8", "--num=4", "--steps=2", "--seeds=1", "--precision=32-true")
    arguments = (tmp_path / "mnist", "--json", file, "--features", f"{__name__}.Shades", *small)
    monkeypatch.setattr(sys, "argv", ["baselines.py", *map(str, arguments)])
    baselines.main()
    table = capsys.readouterr().out
    runs = json.loads(file.read_text())["runs"]
    assert list(runs) == [f"mnist: {row}" for row in (FLOOR, *ROWS)]
    for name, (measured,) in runs.items():
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {name.removeprefix('mnist: ')} |")]
        assert f"| {measured['Frechet of samples']:.2f} |" in line
    baselines.main()
    assert capsys.readouterr().out.strip() in table


def test_a_folder_that_is_none_of_the_sets_is_named(tmp_path):
    line = refusal("studies/baselines/baselines", "photos", "--json", tmp_path / "a")
    assert "photos is none of the sets. Give shipped, mnist" in line
