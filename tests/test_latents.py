import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.decomposition import PCA
from torch import nn

from glo_lightning.errors import InputError
from glo_lightning.images import from_uint8
from glo_lightning.latents import init_from_pca, per_sample_gradients, to_ball, to_sphere
from glo_lightning.pca import _lowrank_pca, check_pca, fit_pca_of_batches

# ------------------------------------------------------------------------------------------------------- projections


tables = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-(2.0**60), 2.0**60, width=32),
    fill=st.floats(-4, 4, width=32),
).map(torch.from_numpy)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables)
def test_projection_ends_in_the_set_and_keeps_what_is_there(codes):
    ball, sphere = to_ball(codes), to_sphere(codes)
    norms = codes.double().norm(dim=1)
    assert (ball.double().norm(dim=1) <= 1 + 1e-5).all()
    assert torch.equal(ball[norms < 0.999], codes[norms < 0.999])
    long = norms > 1.001  # which keep their direction
    torch.testing.assert_close(ball[long].double(), codes[long] / norms[long, None], rtol=0, atol=1e-5)
    torch.testing.assert_close(to_ball(ball), ball)
    long = norms > 1e-15  # shorter ones have a square of zero in float32
    torch.testing.assert_close(sphere[long].norm(dim=1), torch.ones(int(long.sum())), atol=1e-4, rtol=0)
    assert torch.isfinite(sphere).all()


# --------------------------------------------------------------------------------------------- gradients of each image


def test_a_codes_gradient_is_that_of_its_own_images_loss():
    table = torch.nn.Embedding(9, 4, sparse=True)
    rows, wanted = torch.tensor([7, 2, 5]), torch.randn(3, 4)
    for batches_per_step in (1, 3):
        table.weight.grad = None
        codes = per_sample_gradients(table(rows), batches_per_step)
        assert torch.equal(codes, table.weight[rows])
        ((codes - wanted).pow(4).sum(dim=1).mean() / batches_per_step).backward()
        expected = 4 * (table.weight.detach()[rows] - wanted) ** 3  # by hand, no mean
        gradient = table.weight.grad.to_dense()
        torch.testing.assert_close(gradient[rows], expected)
        assert gradient.count_nonzero(dim=1).tolist() == [0, 0, 4, 0, 0, 4, 0, 4, 0]


def test_frozen_codes_have_no_gradient():
    assert per_sample_gradients(torch.zeros(2, 3)).grad_fn is None


# --------------------------------------------------------------------------------------------------- where codes begin


@pytest.fixture(scope="module")
def smooth_images():
    """200 images (3, 8, 8) near a plane."""
    random = np.random.default_rng(0)
    smooth = random.normal(size=(200, 8)) * 2.0 ** -np.arange(8) @ random.normal(size=(8, 3 * 8 * 8))
    return torch.from_numpy(np.clip(127 + 40 * smooth, 0, 255).astype(np.uint8)).view(200, 3, 8, 8)


def pca_by_sklearn(images: torch.Tensor, n_fit: int, whiten: bool) -> np.ndarray:
    rows = images.flatten(1).double().numpy() / 127.5 - 1
    codes = PCA(4, svd_solver="full", whiten=whiten).fit(rows[:n_fit]).transform(rows)
    return codes / (1.5 * 4**0.5) if whiten else codes


@pytest.mark.parametrize("n_fit", [60, 200])
@pytest.mark.parametrize("whiten", [False, True])
def test_pca_codes_are_scikit_learns(smooth_images, n_fit, whiten):
    batches = zip(smooth_images.split(33), torch.arange(200).split(33), strict=True)
    pca, batches = fit_pca_of_batches(batches, 4, n_fit, whiten)
    codes = torch.cat([pca.codes(from_uint8(images)) for images, _ in batches]).numpy()
    expected = pca_by_sklearn(smooth_images, n_fit, whiten)
    signs = np.sign((codes * expected).sum(0))
    np.testing.assert_allclose(codes * signs, expected, atol=1e-3 * expected.std())


def test_init_writes_each_images_own_row_projected_and_leaves_the_others(smooth_images):
    table = torch.full((210, 4), 7.0)
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(1)) + 5
    init_from_pca(
        table, lambda: zip(smooth_images.split(33), rows.split(33), strict=True), to_ball, 60, False, nn.Identity()
    )
    expected = pca_by_sklearn(smooth_images, 60, False)
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1)
    codes = table[rows].numpy()
    signs = np.sign((codes * expected).sum(0))
    np.testing.assert_allclose(codes * signs, expected, atol=2e-3)
    left = torch.ones(210, dtype=torch.bool)
    left[rows] = False
    assert (table[left] == 7).all()


def test_the_accelerators_pca_is_scikit_learns_signs_and_all_and_the_same_at_each_call():
    random = np.random.default_rng(0)
    rows = random.normal(size=(500, 30)) * 2.0 ** -np.arange(30) + 5
    torch.manual_seed(1)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    mean, axes, variances = _lowrank_pca(torch.from_numpy(rows.astype(np.float32)), 4)
    torch.testing.assert_close(torch.rand(3), drawn, atol=0, rtol=0)  # the run's own numbers are left alone
    expected = PCA(4, svd_solver="full").fit(rows)
    np.testing.assert_allclose(mean, expected.mean_, atol=1e-5)
    np.testing.assert_allclose(variances, expected.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(axes.numpy().T @ expected.components_.T, np.eye(4), atol=1e-3)
    again = _lowrank_pca(torch.from_numpy(rows.astype(np.float32)), 4)
    torch.testing.assert_close(again, (mean, axes, variances), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("num_images", "n_pca", "side", "most"),
    [(20, 99, 1, 20), (99, 30, 1, 30), (999, 999, 1, 192), (2, 9, 2, 32), (999, 999, 2, 192)],
)
def test_a_pca_has_no_more_dimensions_than_images_and_pixels(num_images, n_pca, side, most):
    check_pca(most, num_images, n_pca, 192, side)
    with pytest.raises(InputError, match=f"latent_dim {most + 1}: a PCA of .* has at most {most} dimensions"):
        check_pca(most + 1, num_images, n_pca, 192, side)
    with pytest.raises(InputError, match="n_pca 0"):
        check_pca(1, num_images, 0, 192, side)
    with pytest.raises(InputError, match="n_pca nan"):
        check_pca(1, num_images, math.nan, 192, side)
