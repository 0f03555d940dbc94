import math

import numpy as np
import pytest
import torch
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
def fakes_and_images():
    return torch.rand(2, 3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pyramid_is_scipys(fakes_and_images):
    images = fakes_and_images[0]
    blurs = [blur_matrix(size, gaussian_kernel()) for size in (32, 16, 8)]
    ours = laplacian_pyramid(images, blurs)
    for row in range(len(images)):
        for band, expected in zip(ours, scipy_pyramid(images[row].numpy(), 3), strict=True):
            np.testing.assert_allclose(band[row], expected, atol=1e-12)


def test_loss_is_the_weighted_sum_of_mean_distances_of_the_two_pyramids(fakes_and_images):
    fakes, images = fakes_and_images
    weights = [0.5, 1.0, 2.0, 3.0]
    expected = 0.0
    for fake, image in zip(fakes.numpy(), images.numpy(), strict=True):
        pairs = zip(scipy_pyramid(fake, 3), scipy_pyramid(image, 3), strict=True)
        expected += sum(w * abs(a - b).mean() for w, (a, b) in zip(weights, pairs, strict=True)) / len(fakes)
    assert float(LaplacianLoss(3, weights, image_size=32)(fakes, images)) == pytest.approx(expected, rel=1e-6)


def test_equal_means_are_the_papers_powers_of_four_on_sums(fakes_and_images):
    fakes, images = fakes_and_images
    on_sums = LaplacianLoss(3, [4.0**level for level in range(4)], image_size=32, reduction="sum")
    assert float(on_sums(fakes, images)) == pytest.approx(
        3 * 32 * 32 * float(LaplacianLoss(3, image_size=32)(fakes, images)), rel=1e-6
    )


def test_kernel_is_a_product_gaussian():
    # at sigma 1 the sum of two profiles, instead of their product, would be plus-shaped
    kernel = gaussian_kernel(5, 1.0)
    square = torch.outer(kernel, kernel)
    assert float(square.sum()) == pytest.approx(1)
    assert float(square[1, 1] / square[2, 2]) == pytest.approx(math.exp(-1))


def test_no_levels_is_plain_l1(fakes_and_images):
    fakes, images = fakes_and_images.float()
    torch.testing.assert_close(LaplacianLoss(0, image_size=32)(fakes, images), (fakes - images).abs().mean())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_mean_squared_error_is_added_by_its_weight(fakes_and_images, reduction):
    fakes, images = fakes_and_images.float()
    alone, both = (LaplacianLoss(2, image_size=32, reduction=reduction, l2_weight=weight) for weight in (0, 3))
    squares = (fakes - images).square().sum() / (len(fakes) if reduction == "sum" else fakes.numel())
    torch.testing.assert_close(both(fakes, images) - alone(fakes, images), 3 * squares, rtol=1e-4, atol=1e-6)


def test_loss_is_zero_only_for_equal_images_and_has_finite_gradients(fakes_and_images):
    fakes, images = fakes_and_images.float()
    loss = LaplacianLoss(3, image_size=32)
    fakes.requires_grad_()
    assert loss(images, images) == 0
    loss(fakes, images).backward()
    assert fakes.grad.isfinite().all()
    assert fakes.grad.abs().max() > 0


def test_loss_is_float32_under_autocast(fakes_and_images):
    fakes, images = fakes_and_images.float()
    loss = LaplacianLoss(3, image_size=32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(fakes, images), loss(fakes, images).float())
        low = loss(fakes, images)
    assert torch.equal(low, loss(fakes, images))


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"levels": 6}, "levels"),
        ({"levels": -1}, "levels"),
        ({"level_weights": [1, 1]}, "level_weights"),
        ({"level_weights": [1, 1, 1, math.nan]}, "level_weights"),
        ({"reduction": "max"}, "reduction"),
        ({"l2_weight": -1}, "l2_weight"),
    ],
)
def test_wrong_arguments_are_named(arguments, key):
    with pytest.raises(InputError) as error:
        LaplacianLoss(image_size=32, **arguments)
    assert error.value.key == key


def test_losses_by_name():
    assert isinstance(make_loss("l2", 32, 3, None), torch.nn.MSELoss)
    assert isinstance(make_loss("torch.nn.L1Loss", 32, 3, None), torch.nn.L1Loss)
    for unknown in ("l3", "torch.nn.Nothing", "nothing.Loss", "torch.nn.Linear", ""):
        with pytest.raises(InputError):
            make_loss(unknown, 32, 3, None)


@pytest.mark.parametrize("name", ["os.abort", "collections.OrderedDict", "torch.nn.functional.l1_loss"])
def test_a_loss_is_a_modules_class_and_nothing_else_is_called(name):
    with pytest.raises(InputError, match="class"):
        make_loss(name, 32, 3, None)
