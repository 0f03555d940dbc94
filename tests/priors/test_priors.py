import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from glo_lightning.errors import InputError
from glo_lightning.latents import identity, to_ball, to_sphere
from glo_lightning.priors.gaussian import Diagonal, Gaussian, Mixture
from glo_lightning.priors.prior import PRIORS, default_prior, make_prior, sample_codes


def correlated(num: int, dimensions: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator)
    return 0.1 * torch.randn(num, dimensions, generator=generator) @ mixing + 0.2


@pytest.fixture(scope="module")
def two_clusters() -> torch.Tensor:
    """200 codes in two far groups of 150 and 50."""
    codes = 0.05 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    codes[:150, 0] += 0.5
    codes[150:, 0] -= 0.5
    return codes


@pytest.mark.parametrize("prior", [Gaussian(), Diagonal()])
def test_samples_have_numpys_moments_and_a_diagonal_priors_no_correlation(prior):
    codes = correlated(300)
    covariance = np.cov(codes.numpy().T)
    expected = np.diag(np.diag(covariance)) if isinstance(prior, Diagonal) else covariance
    samples = prior.fit(codes).sample(200_000, seed=1).numpy()
    np.testing.assert_allclose(samples.mean(0), codes.numpy().mean(0), atol=2e-3)
    np.testing.assert_allclose(np.cov(samples.T), expected, atol=2e-3)


@pytest.mark.parametrize("num", [1, 2, 5])
def test_a_gaussian_of_few_codes_blends_them(num):
    """Samples lie where the codes do, with their covariance, though it has no full rank."""
    codes = correlated(num, dimensions=6)
    samples = Gaussian().fit(codes).sample(20_000).numpy()
    centred = (codes - codes.mean(0)).numpy()
    np.testing.assert_allclose(samples.mean(0), codes.numpy().mean(0), atol=1e-2)
    np.testing.assert_allclose(np.cov(samples.T), centred.T @ centred / max(1, num - 1), atol=1e-2)
    outside = np.eye(6) - np.linalg.pinv(centred, rcond=1e-4) @ centred
    assert np.abs((samples - codes.numpy().mean(0)) @ outside).max() < 1e-4


def test_gaussian_samples_of_one_seed_move_no_further_than_the_codes():
    # equal variances: their axes are arbitrary, and the samples must not depend on them
    codes = torch.randn(5_000, 8, generator=torch.Generator().manual_seed(0))
    moved = codes + 1e-4 * torch.randn(5_000, 8, generator=torch.Generator().manual_seed(1))
    before, after = (Gaussian().fit(rows).sample(50, seed=2) for rows in (codes, moved))
    assert (after - before).abs().max() < 1e-3


def test_mixture_is_sklearns_and_bic_finds_the_number_of_clusters(two_clusters):
    assert Mixture().fit(two_clusters).mixture.n_components == 2
    samples = Mixture(2).fit(two_clusters).sample(40_000, seed=3)
    right = samples[:, 0] > 0
    assert float(right.float().mean()) == pytest.approx(0.75, abs=0.02)
    independent = GaussianMixture(2, random_state=5).fit(two_clusters.double().numpy())
    for mean, weight in zip(independent.means_, independent.weights_, strict=True):
        ours = samples[right == (mean[0] > 0)]
        np.testing.assert_allclose(ours.mean(0), mean, atol=5e-3)
        assert len(ours) / len(samples) == pytest.approx(weight, abs=0.02)


def test_mixture_samples_come_in_no_order(two_clusters):
    first, second = Mixture(2).fit(two_clusters).sample(2_000, seed=0)[:, 0].split(1_000)
    assert float((first > 0).float().mean()) == pytest.approx(float((second > 0).float().mean()), abs=0.1)


def test_few_codes_get_diagonal_covariances():
    codes = correlated(60, dimensions=20)
    assert Mixture(2).fit(codes).mixture.covariance_type == "diag"
    assert Mixture(2).fit(correlated(200, dimensions=20)).mixture.covariance_type == "full"


@pytest.mark.parametrize(
    ("num_codes", "latent_dim", "side", "name"),
    [
        (999, 10, 1, "mixture"),
        (1000, 50, 1, "flow"),
        (1000, 51, 1, "mixture"),
        (1279, 64, 1, "mixture"),
        (1280, 64, 1, "flow"),
        (1500, 512, 8, "flow"),  # of 8 dimensions at each place
        (1500, 512, 2, "mixture"),  # of 128
    ],
)
def test_a_flow_is_drawn_from_where_there_are_enough_codes(num_codes, latent_dim, side, name):
    assert default_prior(num_codes, latent_dim, side) == name


@pytest.mark.parametrize("name", [name for name in PRIORS if name != "flow"])  # which has tests of its own
def test_every_prior_repeats_its_seed_and_stays_in_the_set_of_the_training(name, two_clusters):
    prior = make_prior(name)
    prior.fit(two_clusters)
    one, same, other = (sample_codes(prior, two_clusters, 20, to_ball, seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == (20, 3)
    assert one.dtype == torch.float32
    assert one.norm(dim=1).max() <= 1 + 1e-6
    torch.testing.assert_close(sample_codes(prior, two_clusters, 20, to_sphere).norm(dim=1), torch.ones(20))


def test_temperature_scales_the_deviation_from_the_mean():
    codes = correlated(300)
    prior = Gaussian().fit(codes)
    plain, cold = (sample_codes(prior, codes, 50, identity, temperature=t) for t in (1.0, 0.25))
    torch.testing.assert_close(cold - codes.mean(0), 0.25 * (plain - codes.mean(0)))


def test_a_mixture_that_is_drawn_from_twice_at_once_keeps_both_seeds(two_clusters, monkeypatch):
    mixture, draw = Mixture(2).fit(two_clusters), GaussianMixture.sample
    expected = mixture.sample(5, seed=0)

    def interrupted(self, num):
        monkeypatch.setattr(GaussianMixture, "sample", draw)
        mixture.sample(5, seed=1)  # as another thread may do
        return draw(self, num)

    monkeypatch.setattr(GaussianMixture, "sample", interrupted)
    assert torch.equal(mixture.sample(5, seed=0), expected)


class Zeros:
    """A prior of a user's own."""

    def fit(self, codes: torch.Tensor) -> None:
        self.dimensions = codes.shape[1]

    def sample(self, num: int, seed: int) -> torch.Tensor:
        return torch.zeros(num, self.dimensions)


class Crooked(Zeros):
    def sample(self, num: int, seed: int) -> torch.Tensor:
        return torch.zeros(self.dimensions, num)


NAN = float("nan")
WRONG_DRAWS = [("num", 0), ("num", 10**15), ("seed", -1), ("seed", 2**32), ("guidance", 2.0), ("guidance", NAN)]
WRONG_DRAWS += [("temperature", value) for value in (0, -1, NAN, float("inf"), 1e30)]


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("prior", lambda: make_prior("flaw")),
        ("prior", lambda: make_prior("torch.nn.ReLU")),
        ("prior", lambda: make_prior("nowhere.Prior")),
        ("prior", lambda: sample_codes(_fitted(Crooked()), correlated(9), 3, to_ball)),
        ("n_components", lambda: make_prior("gaussian", n_components=3)),
        ("n_components", lambda: Mixture(10).fit(correlated(9))),
        ("n_components", lambda: Mixture(0).fit(correlated(9))),
        *((key, lambda key=key, value=value: _draw(**{key: value})) for key, value in WRONG_DRAWS),
        ("condition", lambda: _draw(conditions=torch.tensor([1]))),
    ],
)
def test_wrong_arguments_are_named(key, wrong):
    with pytest.raises(InputError) as error:
        wrong()
    assert error.value.key == key


def _draw(num=1, **options):
    return sample_codes(_fitted(Zeros()), correlated(9), num, to_ball, **options)


def _fitted(prior):
    prior.fit(correlated(9))
    return prior
