import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from glo_lightning.latents import PROJECTIONS, _lowrank_pca, pca_codes, random_codes


@pytest.fixture
def codes():
    return torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 50)[:, None]


def test_ball_shortens_long_codes_and_leaves_the_others(codes):
    projected = PROJECTIONS["ball"](codes)
    norms = np.linalg.norm(codes.numpy(), axis=1)
    np.testing.assert_allclose(np.linalg.norm(projected.numpy(), axis=1), np.minimum(norms, 1), rtol=1e-5)
    assert torch.equal(projected[norms <= 1], codes[norms <= 1])
    directions = (projected * codes).sum(1) / (projected.norm(dim=1) * codes.norm(dim=1))
    torch.testing.assert_close(directions, torch.ones(50))


def test_sphere_gives_every_code_norm_one_and_no_nan(codes):
    norms = PROJECTIONS["sphere"](codes).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(50))
    assert torch.equal(PROJECTIONS["sphere"](torch.zeros(1, 7)), torch.zeros(1, 7))


def test_none_changes_nothing(codes):
    assert torch.equal(PROJECTIONS["none"](codes), codes)


def test_random_codes_are_standard_normal():
    torch.manual_seed(0)
    codes = random_codes(2000, 10)
    assert codes.shape == (2000, 10)
    assert abs(float(codes.mean())) < 0.02
    assert abs(float(codes.std()) - 1) < 0.02


@pytest.mark.parametrize("n_fit", [60, 200])
@pytest.mark.parametrize("whiten", [False, True])
def test_pca_codes_are_scikit_learns(n_fit, whiten):
    random = np.random.default_rng(0)
    smooth = random.normal(size=(200, 8)) * 2.0 ** -np.arange(8) @ random.normal(size=(8, 3 * 8 * 8))
    images = torch.from_numpy(np.clip(127 + 40 * smooth, 0, 255).astype(np.uint8)).view(200, 3, 8, 8)
    codes = torch.cat(list(pca_codes(iter(images.split(33)), 4, n_fit, whiten))).numpy()

    rows = images.flatten(1).double().numpy() / 127.5 - 1
    expected = PCA(4, svd_solver="full", whiten=whiten).fit(rows[:n_fit]).transform(rows)
    expected = expected / (1.5 * 4**0.5) if whiten else expected
    signs = np.sign((codes * expected).sum(0))
    np.testing.assert_allclose(codes * signs, expected, atol=1e-3 * expected.std())


def test_the_accelerators_pca_is_scikit_learns():
    random = np.random.default_rng(0)
    rows = random.normal(size=(500, 30)) * 2.0 ** -np.arange(30) + 5
    torch.manual_seed(0)
    mean, axes, variances = _lowrank_pca(torch.from_numpy(rows.astype(np.float32)), 4)
    expected = PCA(4, svd_solver="full").fit(rows)
    np.testing.assert_allclose(mean, expected.mean_, atol=1e-5)
    np.testing.assert_allclose(variances, expected.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(axes.numpy().T @ expected.components_.T), np.eye(4), atol=1e-3)
