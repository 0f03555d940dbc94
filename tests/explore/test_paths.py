import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation, Slerp
from sklearn.decomposition import PCA

from glo_lightning.errors import InputError
from glo_lightning.explore.neighbours import nearest
from glo_lightning.explore.paths import (
    INTERPOLATIONS,
    between,
    gradient_magnitude,
    lerp,
    principal_axes,
    resample_path,
    slerp,
    walk,
)
from glo_lightning.latents import identity, to_ball, to_sphere


@pytest.fixture
def codes() -> torch.Tensor:
    return to_ball(0.4 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("way", [lerp, slerp])
def test_interpolations_run_from_end_to_end_inside_the_set(way, codes):
    path = way(codes[0], codes[1], 7, to_ball)
    torch.testing.assert_close(path[0], codes[0])
    torch.testing.assert_close(path[-1], codes[1])
    assert path.norm(dim=1).max() <= 1 + 1e-6
    steps = path.diff(dim=0).norm(dim=1)
    assert steps.max() < 2.5 * steps.min()


def test_linear_interpolation_has_equal_steps_and_is_projected(codes):
    expected = codes[0] + torch.linspace(0, 1, 5)[:, None] * (codes[1] - codes[0])
    torch.testing.assert_close(lerp(codes[0], codes[1], 5, identity), expected)
    ends = to_sphere(codes[:2])
    torch.testing.assert_close(lerp(*ends, 5, to_sphere).norm(dim=1), torch.ones(5))


def test_spherical_interpolation_is_scipys_rotation():
    # a rotation about the third axis turns x into y: its slerp moves the image of x on the great arc
    start, end = torch.tensor([1.0, 0, 0]), torch.tensor([math.cos(2.0), math.sin(2.0), 0])
    rotations = Slerp([0, 1], Rotation.from_rotvec([[0, 0, 0], [0, 0, 2.0]]))(np.linspace(0, 1, 9))
    path = slerp(start, end, 9, identity)
    np.testing.assert_allclose(path, rotations.apply(start.numpy()), atol=1e-6)


def test_spherical_interpolation_goes_evenly_from_length_to_length(codes):
    path = slerp(0.2 * to_sphere(codes[0]), to_sphere(codes[1]), 5, to_ball)
    torch.testing.assert_close(path.norm(dim=1), torch.linspace(0.2, 1, 5))


def test_spherical_interpolation_between_parallel_codes_is_linear(codes):
    for end in (2 * codes[0], -codes[0], torch.zeros(6)):
        path = slerp(codes[0], end, 5, identity)
        torch.testing.assert_close(path, lerp(codes[0], end, 5, identity))


def test_codes_between_two_are_half_way_on_their_arc_and_have_their_own_fractions(codes):
    first, second = to_sphere(codes[:20]), to_sphere(codes[20:40])
    torch.testing.assert_close(between(first, second, 0.5), slerp(first, second, 3, identity)[1])
    fractions = torch.linspace(0, 1, 20)[:, None]
    lengths = torch.lerp(codes[:20].norm(dim=1), codes[20:40].norm(dim=1), fractions[:, 0])
    torch.testing.assert_close(between(codes[:20], codes[20:40], fractions).norm(dim=1), lengths)
    assert not between(codes[0], -codes[0], 0.5).any()


def test_steps_along_a_path_are_as_long_as_each_other():
    """On a ray the places are those that NumPy interpolates; of paths side by side each has its own pieces."""
    lengths = torch.tensor([[0.1, 0.5], [0.15, 0.6], [0.9, 0.9], [1.0, 1.0]])
    rays = to_sphere(torch.tensor([[1.0, 2.0, 2.0], [0.0, -3.0, 4.0]]))
    places = resample_path(lengths[..., None] * rays, torch.linspace(0, 1, 7))
    assert places.shape == (7, 2, 3)
    torch.testing.assert_close(places.diff(dim=0).norm(dim=2), torch.tensor([0.15, 0.5 / 6]).expand(6, 2))
    some = resample_path(lengths[..., None] * rays, torch.tensor([0.3, 0.8])).norm(dim=2)
    reached = (lengths - lengths[0]) / (lengths[-1] - lengths[0])
    for ray in (0, 1):
        np.testing.assert_allclose(some[:, ray], np.interp([0.3, 0.8], reached[:, ray], lengths[:, ray]), rtol=1e-6)


def test_a_path_is_as_even_as_is_asked():
    path = torch.tensor([[0.1], [0.2], [0.3], [0.9]])  # a quarter of its length, and two thirds of its codes, up to 0.3
    fractions = torch.tensor([2 / 3, 0.25, (2 / 3 + 0.25) / 2])
    places = [float(resample_path(path, fractions[n : n + 1], evenness)) for n, evenness in enumerate((0.0, 1.0, 0.5))]
    assert places == pytest.approx([0.3] * 3)
    torch.testing.assert_close(resample_path(path, torch.linspace(0, 1, 4), 0.0), path)
    still = torch.tensor([0.3, 0.4]).expand(5, 2)
    torch.testing.assert_close(resample_path(still, torch.tensor([0.0, 0.5, 1.0])), still[:3])


def test_principal_axes_are_sklearns(codes):
    axes = principal_axes(codes, 3)
    pca = PCA(3).fit(codes.double().numpy())
    np.testing.assert_allclose(axes.norm(dim=1), pca.explained_variance_**0.5, rtol=1e-4)
    cosines = (axes.numpy() * pca.components_).sum(1) / axes.norm(dim=1).numpy()
    np.testing.assert_allclose(abs(cosines), 1, rtol=1e-4)


def test_a_walk_passes_its_origin_and_ends_at_its_reach(codes):
    axis = principal_axes(codes, 1)[0]
    path = walk(codes[3], axis, 5, 2.0, identity)
    torch.testing.assert_close(path[2], codes[3])
    torch.testing.assert_close(path[-1], codes[3] + 2 * axis)
    torch.testing.assert_close(path[0], codes[3] - 2 * axis)


def test_ways_of_many_pairs_are_those_of_each(codes):
    for way in INTERPOLATIONS.values():
        together = way(codes[:6], codes[6:12], 5, to_ball)
        for pair in range(6):
            torch.testing.assert_close(together[:, pair], way(codes[pair], codes[6 + pair], 5, to_ball))


def test_nearest_images_are_scipys_over_all_batches(codes):
    queries = codes[:20] + 0.05 * torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(2))
    batches = [(codes[index], index) for index in order.split(7)]
    _, expected = cKDTree(codes.numpy()).query(queries.numpy())
    np.testing.assert_array_equal(nearest(queries, batches), expected)
    images = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert nearest(images[[4, 17]], [(images, torch.arange(30))]).tolist() == [4, 17]


def test_gradient_magnitude_of_a_ramp_is_its_slope():
    ramp = 0.5 * torch.arange(16.0).expand(1, 3, 16, 16)
    torch.testing.assert_close(gradient_magnitude(torch.cat([ramp, ramp.mT, 0 * ramp])), torch.tensor([0.5, 0.5, 0]))


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("steps", lambda codes: lerp(codes[0], codes[1], 1, to_ball)),
        ("steps", lambda codes: slerp(codes[0], codes[1], 1, to_ball)),
        ("steps", lambda codes: walk(codes[0], codes[1], 1, 3.0, to_ball)),
        ("reach", lambda codes: walk(codes[0], codes[1], 3, 0.0, to_ball)),
        ("axes", lambda codes: principal_axes(codes, 7)),
        ("axes", lambda codes: principal_axes(codes, 0)),
    ],
)
def test_wrong_arguments_are_named(key, wrong, codes):
    with pytest.raises(InputError) as error:
        wrong(codes)
    assert error.value.key == key
