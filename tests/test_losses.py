import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from glo_lightning.errors import InputError
from glo_lightning.losses import LaplacianLoss, find_loss, make_loss
from glo_lightning.parts import describe_part


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


def test_loss_is_the_weighted_sum_of_mean_distances_of_the_two_pyramids(generated_and_images):
    weights, distances = [0.5, 1.0, 2.0, 3.0], []
    for pair in zip(*generated_and_images.numpy(), strict=True):
        bands = zip(*(scipy_pyramid(image, 3) for image in pair), strict=True)
        means = [np.abs(one - other).mean() for one, other in bands]
        distances.append(np.dot(weights, means))
    ours = float(LaplacianLoss(3, weights)(*generated_and_images))
    assert ours == pytest.approx(np.mean(distances), rel=1e-6)


def test_no_levels_is_plain_l1(generated_and_images):
    generated, images = generated_and_images.float()
    torch.testing.assert_close(LaplacianLoss(0)(generated, images), (generated - images).abs().mean())


def test_the_mean_squared_error_is_added_by_its_weight(generated_and_images):
    generated, images = generated_and_images.float()
    alone, both = (LaplacianLoss(2, l2_weight=weight) for weight in (0, 3))
    squares = torch.nn.functional.mse_loss(generated, images)
    torch.testing.assert_close(both(generated, images) - alone(generated, images), 3 * squares, rtol=1e-4, atol=1e-6)


def test_loss_is_float32_under_autocast(generated_and_images):
    generated, images = generated_and_images.float()
    loss = LaplacianLoss(3)
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
    loss = LaplacianLoss(levels)
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
        ({"levels": -1}, "levels"),
        ({"level_weights": [1, 1]}, "level_weights"),
        ({"level_weights": [1, 1, 1, math.nan]}, "level_weights"),
        ({"l2_weight": -1}, "l2_weight"),
    ],
)
def test_wrong_arguments_are_named(arguments, key):
    with pytest.raises(InputError) as error:
        LaplacianLoss(**arguments)
    assert error.value.key == key


def test_levels_that_images_do_not_have_are_named_at_the_first_images():
    images, loss = torch.zeros(1, 3, 16, 16), LaplacianLoss(5)
    with pytest.raises(InputError, match=r"levels 5: images of 16 pixels have at most 4 levels. Give fewer"):
        loss(images, images)


def test_one_loss_compares_images_of_every_size_and_keeps_none_in_its_state(generated_and_images):
    generated, images = generated_and_images.float()
    loss = LaplacianLoss(2)
    for size in (32, 16, 32):
        some = generated[..., :size, :size], images[..., :size, :size]
        assert torch.equal(loss(*some), LaplacianLoss(2)(*some))
    assert not loss.state_dict()


# ----------------------------------------------------------------------------------------------------- losses by class


def make(part):
    """What GLO makes of a class or a partial of one."""
    return make_loss(describe_part(part, "loss"), 32, 3)


def test_a_loss_is_made_of_a_class_or_of_a_partial_of_one(generated_and_images):
    generated, images = generated_and_images.float()
    for part, expected in (
        (torch.nn.MSELoss, torch.nn.functional.mse_loss(generated, images)),
        (LaplacianLoss, LaplacianLoss(3, [1.0] * 4)(generated, images)),
        (partial(LaplacianLoss, levels=1, l2_weight=0.25), LaplacianLoss(1, None, 0.25)(generated, images)),
    ):
        torch.testing.assert_close(make(part)(generated, images), expected)
    assert make(partial(torch.nn.HuberLoss, delta=0.25)).delta == 0.25


def test_losses_by_name():
    """For commands that take the loss by name alone."""
    for name, path in (("LaplacianLoss", "glo_lightning.losses.LaplacianLoss"), ("MSELoss", "torch.nn.MSELoss")):
        assert find_loss(name)["class_path"] == path
        assert make_loss(find_loss(name), 32, 3)
    assert find_loss("my.Loss") == {"class_path": "my.Loss", "init_args": {}}
    with pytest.raises(InputError, match=r"loss MSEloss: there is no such loss\. [Dd]id you mean MSELoss\?"):
        find_loss("MSEloss")
    with pytest.raises(InputError, match=r"loss lap_l1: there is no such loss\. Give LaplacianLoss, MSELoss or"):
        find_loss("lap_l1")


class PerPixel(torch.nn.MSELoss):
    """A distance for each pixel."""

    def __init__(self):
        super().__init__(reduction="none")


class Number(torch.nn.Module):
    """A number that is no tensor, without gradients."""

    def forward(self, generated, images):
        return 0.0


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (partial(torch.nn.HuberLoss, gamma=1), "cannot be made with its arguments"),
        (torch.nn.Linear, "cannot be made with its arguments"),  # it needs some
        (torch.nn.ReLU, r"does not compare images of shape \(2, 3, 32, 32\) \(TypeError at .*. Give one that maps"),
        (PerPixel, r"makes \(2, 3, 32, 32\) of two images. Give a module that makes a scalar"),
        (Number, "makes float of two images. Give a module that makes a scalar"),
    ],
)
def test_a_class_that_is_no_loss_is_named_at_the_start(part, said):
    with pytest.raises(InputError, match=rf"loss [\w.]+: {said}"):
        make(part)


def test_trying_a_loss_leaves_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    make(LaplacianLoss)
    assert torch.equal(torch.rand(1), expected)
