import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.decomposition import PCA

from glo_lightning.errors import InputError
from glo_lightning.latents import (
    PROJECTIONS,
    _lowrank_pca,
    check_pca,
    pca_codes,
    per_image,
    random_codes,
    to_ball,
    to_sphere,
)


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


quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def floats(limit: float) -> st.SearchStrategy:
    return st.floats(-limit, limit, width=32)


tables = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=floats(2.0**60), fill=floats(4)
).map(torch.from_numpy)


@quick
@given(tables)
def test_projection_ends_in_the_set_and_keeps_what_is_there(codes):
    ball, sphere = to_ball(codes), to_sphere(codes)
    norms = codes.double().norm(dim=1)
    assert (ball.double().norm(dim=1) <= 1 + 1e-5).all()
    assert torch.equal(ball[norms < 0.999], codes[norms < 0.999])
    torch.testing.assert_close(to_ball(ball), ball)
    long = norms > 1e-15  # shorter ones have a square of zero in float32
    torch.testing.assert_close(sphere[long].norm(dim=1), torch.ones(int(long.sum())), atol=1e-4, rtol=0)
    assert torch.isfinite(sphere).all()


def test_gradients_per_image_are_those_of_each_images_own_loss():
    codes, targets = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    (per_image(codes * 1.0, batches_per_step=2) - targets).square().sum(dim=1).mean().div(2).backward()
    torch.testing.assert_close(codes.grad, 2 * (codes - targets).detach())
    assert not per_image(codes.detach()).requires_grad


@pytest.mark.parametrize("sizes", [(7, 6, 100, 32), (7, 100, 6, 32), (13, 100, 100, 2)])
def test_a_pca_has_no_more_dimensions_than_images_or_pixels(sizes):
    with pytest.raises(InputError, match="latent_dim"):
        check_pca(*sizes)
    check_pca(sizes[0] - 1, *sizes[1:])
