import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from glo_lightning.errors import InputError
from glo_lightning.losses import LaplacianLoss, blur_matrix, gaussian_kernel, laplacian_pyramid, make_loss


def scipy_pyramid(image: np.ndarray, levels: int, sigma: float = 2.0) -> list[np.ndarray]:
    """The pyramid of one image (C, H, W) by SciPy's own Gaussian filter, 5 taps, nearest pixel at the border."""
    pyramid = []
    for _ in range(levels):
        blurred = ndimage.gaussian_filter(image, (0, sigma, sigma), mode="nearest", radius=2)
        pyramid.append(image - blurred)
        image = blurred.reshape(len(image), image.shape[1] // 2, 2, image.shape[2] // 2, 2).mean((2, 4))
    return [*pyramid, image]


@pytest.fixture
def generated_and_images():
    return torch.rand(2, 3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pyramid_is_scipys(generated_and_images):
    images = generated_and_images[0]
    blurs = [blur_matrix(size, gaussian_kernel()) for size in (32, 16, 8)]
    ours = laplacian_pyramid(images, blurs)
    for row in range(len(images)):
        for band, expected in zip(ours, scipy_pyramid(images[row].numpy(), 3), strict=True):
            np.testing.assert_allclose(band[row], expected, atol=1e-12)


def test_loss_is_the_weighted_sum_of_mean_distances_of_the_two_pyramids(generated_and_images):
    generated, images = generated_and_images
    weights = [0.5, 1.0, 2.0, 3.0]
    expected = 0.0
    for one, image in zip(generated.numpy(), images.numpy(), strict=True):
        pairs = zip(scipy_pyramid(one, 3), scipy_pyramid(image, 3), strict=True)
        expected += sum(w * abs(a - b).mean() for w, (a, b) in zip(weights, pairs, strict=True)) / len(generated)
    assert float(LaplacianLoss(3, weights, image_size=32)(generated, images)) == pytest.approx(expected, rel=1e-6)


def test_equal_means_are_the_papers_powers_of_four_on_sums(generated_and_images):
    generated, images = generated_and_images
    on_sums = 0.0
    for one, image in zip(generated.numpy(), images.numpy(), strict=True):
        bands = zip(scipy_pyramid(one, 3), scipy_pyramid(image, 3), strict=True)
        on_sums += sum(4.0**level * abs(a - b).sum() for level, (a, b) in enumerate(bands)) / len(generated)
    ours = float(LaplacianLoss(3, image_size=32)(generated, images))
    assert 3 * 32 * 32 * ours == pytest.approx(on_sums, rel=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_kernel_is_the_product_of_gaussians_that_scipy_blurs_a_point_with(sigma):
    # at sigma 1 the sum of two profiles, instead of their product, would be plus-shaped
    point = np.zeros((15, 15))
    point[7, 7] = 1
    blur = blur_matrix(15, gaussian_kernel(5, sigma)).numpy()
    np.testing.assert_allclose(blur @ point @ blur.T, ndimage.gaussian_filter(point, sigma, radius=2), atol=1e-12)


def test_no_levels_is_plain_l1(generated_and_images):
    generated, images = generated_and_images.float()
    torch.testing.assert_close(LaplacianLoss(0, image_size=32)(generated, images), (generated - images).abs().mean())


def test_the_mean_squared_error_is_added_by_its_weight(generated_and_images):
    generated, images = generated_and_images.float()
    alone, both = (LaplacianLoss(2, image_size=32, l2_weight=weight) for weight in (0, 3))
    squares = 3 * (generated - images).square().mean()
    torch.testing.assert_close(both(generated, images) - alone(generated, images), squares, rtol=1e-4, atol=1e-6)


def test_loss_is_zero_only_for_equal_images_and_has_finite_gradients(generated_and_images):
    generated, images = generated_and_images.float()
    loss = LaplacianLoss(3, image_size=32)
    generated.requires_grad_()
    assert loss(images, images) == 0
    loss(generated, images).backward()
    assert generated.grad.isfinite().all()
    assert generated.grad.abs().max() > 0


def test_loss_is_float32_under_autocast(generated_and_images):
    generated, images = generated_and_images.float()
    loss = LaplacianLoss(3, image_size=32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(generated, images), loss(generated, images).float())
        low = loss(generated, images)
    assert torch.equal(low, loss(generated, images))


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"levels": 6}, "levels"),
        ({"levels": -1}, "levels"),
        ({"level_weights": [1, 1]}, "level_weights"),
        ({"level_weights": [1, 1, 1, math.nan]}, "level_weights"),
        ({"l2_weight": -1}, "l2_weight"),
    ],
)
def test_wrong_arguments_are_named(arguments, key):
    with pytest.raises(InputError) as error:
        LaplacianLoss(image_size=32, **arguments)
    assert error.value.key == key


def test_losses_by_name():
    assert isinstance(make_loss("l2"), torch.nn.MSELoss)
    assert isinstance(make_loss("torch.nn.L1Loss"), torch.nn.L1Loss)
    assert make_loss("torch.nn.SmoothL1Loss", loss_args={"beta": 0.5}).beta == 0.5
    assert make_loss("lap_l1", 32, levels=2, l2_weight=3.0).l2_weight == 3
    for unknown in ("l3", "torch.nn.Nothing", "nothing.Loss", "torch.nn.Linear", ""):
        with pytest.raises(InputError):
            make_loss(unknown)


@pytest.mark.parametrize("name", ["l2", "torch.nn.L1Loss"])
@pytest.mark.parametrize(("key", "value"), [("levels", 3), ("level_weights", [1.0]), ("l2_weight", 0.0)])
def test_an_argument_that_the_loss_does_not_use_is_an_error(name, key, value):
    with pytest.raises(InputError, match=rf"{name} does not use it; give --model.{key} null"):
        make_loss(name, **{key: value})


@pytest.mark.parametrize("name", ["lap_l1", "l2"])
def test_arguments_of_a_class_are_for_a_class(name):
    with pytest.raises(InputError, match="loss_args"):
        make_loss(name, loss_args={"beta": 1.0})
    with pytest.raises(InputError, match="gamma"):
        make_loss("torch.nn.SmoothL1Loss", loss_args={"gamma": 1.0})


@pytest.mark.parametrize("name", ["os.abort", "collections.OrderedDict", "torch.nn.functional.l1_loss"])
def test_a_loss_is_a_modules_class_and_nothing_else_is_called(name):
    with pytest.raises(InputError, match="class"):
        make_loss(name)


quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def floats(limit: float) -> st.SearchStrategy:
    return st.floats(-limit, limit, width=32)


pixels = arrays.arrays(np.float32, (2, 3, 32, 32), elements=floats(1), fill=floats(1)).map(torch.from_numpy)


@quick
@given(pixels, pixels, st.integers(0, 5))
def test_the_loss_is_a_distance(generated, images, levels):
    loss = LaplacianLoss(levels, image_size=32)
    distance, other = float(loss(generated, images)), torch.zeros_like(images)
    assert float(loss(images, images)) == 0
    assert distance >= 0
    assert distance == pytest.approx(float(loss(images, generated)), rel=1e-5, abs=1e-7)
    assert distance <= float(loss(generated, other) + loss(other, images)) * (1 + 1e-5) + 1e-6
    assert distance > 0 or (generated - images).abs().max() < 1e-30
