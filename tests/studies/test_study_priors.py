"""scripts/studies/priors: the two priors that live there, and the comparison at its smallest."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import other_priors
import pytest
import torch
from image_sets import write_mnist
from programs import call
from run_study import run_study
from sklearn.neighbors import KernelDensity
from test_priors import correlated, two_clusters  # noqa: F401

from glo_lightning.errors import InputError
from glo_lightning.latents import to_ball
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.gaussian import Gaussian
from glo_lightning.priors.prior import PRIORS, make_prior, sample_codes


class SmallIMLE(other_priors.IMLE):
    def __init__(self):
        super().__init__(width=8, rounds=2)


def test_a_kernel_densitys_samples_have_its_variance_and_its_bandwidth_is_the_likeliest():
    codes = correlated(400)
    prior = other_priors.KernelDensity().fit(codes)
    samples = prior.sample(100_000, seed=4).numpy()
    variance = codes.numpy().var(0) + (prior.bandwidth * codes.numpy().std(0, ddof=1)) ** 2
    np.testing.assert_allclose(samples.var(0), variance, rtol=0.03)
    held_out = correlated(2_000)[400:].double().numpy()  # the same mixing, other draws
    scale = codes.double().numpy().std(0)

    def likelihood(bandwidth: float) -> float:
        return KernelDensity(bandwidth=bandwidth).fit(codes.double().numpy() / scale).score(held_out / scale)

    assert likelihood(prior.bandwidth) > max(likelihood(prior.bandwidth / 2), likelihood(prior.bandwidth * 2))


def test_imle_reaches_every_code_and_leaves_the_gap_that_a_gaussian_fills(two_clusters):  # noqa: F811
    state = torch.get_rng_state()
    samples = other_priors.IMLE(noise_dim=4, width=64, rounds=100).fit(two_clusters).sample(2_000, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    gaussian = Gaussian().fit(two_clusters).sample(2_000, seed=0)
    distances, gaussians = (torch.cdist(two_clusters, drawn) for drawn in (samples, gaussian))
    assert distances.min(1).values.mean() < 0.03
    assert distances.min(0).values.mean() < 0.75 * gaussians.min(0).values.mean()
    in_the_gap = [(drawn[:, 0].abs() < 0.25).float().mean() for drawn in (samples, gaussian)]
    assert in_the_gap[0] < 0.75 * in_the_gap[1]


@pytest.mark.parametrize("path", ["other_priors.KernelDensity", f"{__name__}.SmallIMLE"])
def test_a_prior_by_class_path_repeats_its_seed_and_stays_in_the_ball(path, two_clusters):  # noqa: F811
    prior = make_prior(path)
    prior.fit(two_clusters)
    one, same, other = (sample_codes(prior, two_clusters, 20, to_ball, seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (one.shape, one.dtype) == ((20, 3), torch.float32)
    assert one.norm(dim=1).max() <= 1 + 1e-6


def test_too_few_codes_for_cross_validation_are_named():
    with pytest.raises(InputError, match=r"4 codes are too few"):
        other_priors.KernelDensity().fit(correlated(4))


def test_every_prior_is_compared_beside_two_floors(tmp_path, monkeypatch):
    """On 60 synthetic digits, with the little training that they allow."""
    write_mnist(tmp_path, num_train=60)
    start = subprocess.run

    def call_here(command, **options):
        """Runs scripts/*.py in this process."""
        return call(Path(command[1]).stem, *command[2:]) if command[0] == sys.executable else start(command, **options)

    monkeypatch.setattr(subprocess, "run", call_here)
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=10, width=8, blocks=1))
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)
    small = ("--num_images=60", "--latent_dim=4", "--max_epochs=1", "--seeds=2", "--temperatures=1")
    priors = [*PRIORS, "other_priors.KernelDensity", f"{__name__}.SmallIMLE"]
    table = run_study("priors/compare_priors", tmp_path, *small, "--output", tmp_path / "work", "--priors", *priors)
    written = (tmp_path / "work" / "frechet.md").read_text()
    assert written.rstrip() in table
    rows = ["held-out digits", "reconstructions", *(f"{name}, temperature 1" for name in priors)]
    assert [row.split(" | ")[0] for row in written.splitlines()[2:]] == [f"| {row}" for row in rows]
