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


def distances_by_scipy(generated, images, levels: int) -> list[list[np.ndarray]]:
    """The absolute differences of the two pyramids, for each image and level."""
    return [
        [abs(a - b) for a, b in zip(scipy_pyramid(one, levels), scipy_pyramid(other, levels), strict=True)]
        for one, other in zip(generated.numpy(), images.numpy(), strict=True)
    ]


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
    of_each_image = [
        sum(weight * distance.mean() for weight, distance in zip(weights, bands, strict=True))
        for bands in distances_by_scipy(generated, images, 3)
    ]
    ours = float(LaplacianLoss(3, weights, image_size=32)(generated, images))
    assert ours == pytest.approx(np.mean(of_each_image), rel=1e-6)


def test_equal_means_are_the_papers_powers_of_four_on_sums(generated_and_images):
    generated, images = generated_and_images
    of_each_image = [
        sum(4**level * distance.sum() for level, distance in enumerate(bands))
        for bands in distances_by_scipy(generated, images, 3)
    ]
    ours = float(LaplacianLoss(3, image_size=32)(generated, images))
    assert 3 * 32 * 32 * ours == pytest.approx(np.mean(of_each_image), rel=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_the_kernel_with_itself_is_the_two_dimensional_gaussian(sigma):
    point = np.zeros((9, 9))
    point[4, 4] = 1
    expected = ndimage.gaussian_filter(point, sigma, radius=2)[2:7, 2:7]
    y, x = np.mgrid[-2:3, -2:3]
    explicit = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    kernel = gaussian_kernel(5, sigma)
    np.testing.assert_allclose(torch.outer(kernel, kernel), expected, rtol=1e-9)
    np.testing.assert_allclose(torch.outer(kernel, kernel), explicit / explicit.sum(), rtol=1e-9)


def test_no_levels_is_plain_l1(generated_and_images):
    generated, images = generated_and_images.float()
    torch.testing.assert_close(LaplacianLoss(0, image_size=32)(generated, images), (generated - images).abs().mean())


def test_the_mean_squared_error_is_added_by_its_weight(generated_and_images):
    generated, images = generated_and_images.float()
    alone, both = (LaplacianLoss(2, image_size=32, l2_weight=weight) for weight in (0, 3))
    squares = torch.nn.functional.mse_loss(generated, images)
    torch.testing.assert_close(both(generated, images) - alone(generated, images), 3 * squares, rtol=1e-4, atol=1e-6)


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
        low = loss(generated, images)
    assert low.dtype == torch.float32
    assert torch.equal(low, loss(generated, images))


def floats(limit: float) -> st.SearchStrategy:
    return st.floats(-limit, limit, width=32)


pixels = arrays.arrays(np.float32, (2, 3, 32, 32), elements=floats(1), fill=floats(1)).map(torch.from_numpy)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(pixels, pixels, st.integers(0, 5))
def test_the_loss_is_a_distance(generated, images, levels):
    loss = LaplacianLoss(levels, image_size=32)
    distance, other = float(loss(generated, images)), torch.zeros_like(images)
    assert float(loss(images, images)) == 0
    assert distance >= 0
    assert distance == pytest.approx(float(loss(images, generated)), rel=1e-5, abs=1e-7)
    assert distance <= float(loss(generated, other) + loss(other, images)) * (1 + 1e-5) + 1e-6
    if (generated - images).abs().max() > 1e-30:
        assert distance > 0


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


# ------------------------------------------------------------------------------------------------------ losses by name


def test_losses_by_name(generated_and_images):
    generated, images = generated_and_images.float()
    for name, expected in (
        ("l2", torch.nn.functional.mse_loss(generated, images)),
        ("torch.nn.L1Loss", torch.nn.functional.l1_loss(generated, images)),
        ("lap_l1", LaplacianLoss(3, [1.0] * 4, image_size=32, l2_weight=0.0)(generated, images)),
    ):
        torch.testing.assert_close(make_loss(name, 32)(generated, images), expected)
    for unknown in ("l3", "torch.nn.Nothing", "nothing.Loss", ""):
        with pytest.raises(InputError, match=f"loss {unknown}: give lap_l1, l2 or the path"):
            make_loss(unknown, 32)


def test_the_pyramids_arguments_reach_it(generated_and_images):
    generated, images = generated_and_images.float()
    ours = make_loss("lap_l1", 32, levels=1, level_weights=[2.0, 0.5], l2_weight=0.25)
    expected = LaplacianLoss(1, [2.0, 0.5], 32, 0.25)
    assert torch.equal(ours(generated, images), expected(generated, images))


def test_a_loss_by_path_is_made_with_its_arguments():
    assert make_loss("torch.nn.HuberLoss", 32, loss_args={"delta": 0.25}).delta == 0.25
    for arguments in ({"gamma": 1}, {"delta": 1, "gamma": 1}):
        with pytest.raises(InputError, match=r"loss torch\.nn\.HuberLoss: cannot be made with the arguments given"):
            make_loss("torch.nn.HuberLoss", 32, loss_args=arguments)
    with pytest.raises(InputError, match="cannot be made with the arguments given"):
        make_loss("torch.nn.Linear", 32)  # which needs some


@pytest.mark.parametrize("name", ["os.abort", "collections.OrderedDict", "torch.nn.functional.l1_loss"])
def test_a_loss_is_a_modules_class_and_nothing_else_is_called(name):
    with pytest.raises(InputError, match="class"):
        make_loss(name, 32)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("l2", {"levels": 7}),
        ("l2", {"level_weights": [1.0, 1.0]}),
        ("l2", {"l2_weight": 0.0}),
        ("torch.nn.L1Loss", {"levels": 3}),
        ("torch.nn.L1Loss", {"l2_weight": 1.0}),
        ("lap_l1", {"loss_args": {"delta": 1}}),
        ("l2", {"loss_args": {"delta": 1}}),
    ],
)
def test_an_argument_that_the_loss_does_not_use_is_named_with_its_value(name, given):
    ((key, value),) = given.items()
    with pytest.raises(InputError) as error:
        make_loss(name, 32, **given)
    assert (error.value.key, error.value.value) == (key, value)
    assert f"the loss {name} does not use it; give --model.{key} null" in error.value.remedy
