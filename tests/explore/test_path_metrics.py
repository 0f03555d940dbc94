"""Metrics of paths, on spaces whose answers are known."""

import pytest
import torch
from torch import nn

from glo_lightning.explore.features import extract
from glo_lightning.explore.metrics import frechet
from glo_lightning.explore.path_metrics import interpolation_metrics, nearest_distances, random_pairs
from glo_lightning.explore.paths import INTERPOLATIONS
from glo_lightning.images import to_uint8
from glo_lightning.latents import identity


class Colour(nn.Module):
    """uint8 images to their mean colour."""

    def forward(self, images):
        return images.float().mean((2, 3))


def paint(codes):
    """A linear generator: codes (B, 3) in [-1, 1] are colours."""
    return codes[:, :, None, None].expand(-1, -1, 8, 8)


@pytest.fixture(scope="module")
def measured():
    codes = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = to_uint8(paint(codes))
    return codes, images, interpolation_metrics(INTERPOLATIONS, paint, codes, identity, images, Colour(), 200)


def test_where_the_generator_is_linear_the_line_fades_over_evenly(measured):
    _, _, found = measured
    for key in ("frechet_25", "frechet_50", "frechet_75"):
        assert found["line"][key] == pytest.approx(found["fade"][key], rel=0.02)
    assert found["line"]["largest_step"] == pytest.approx(1, abs=0.2)  # roundings to bytes
    assert found["line"]["asymmetry"] == pytest.approx(0.5, abs=0.01)
    assert found["nearest_code"]["asymmetry"] > 0.53
    assert found["line"]["length"] < found["arc"]["length"] == 1
    assert found["line"]["frechet_50"] > found["line"]["frechet_25"] > 0


def test_nearest_codes_give_training_images(measured):
    codes, images, found = measured
    assert found["nearest_code"]["nearest"] < 1.01 < found["line"]["nearest"]
    first, second = random_pairs(300, 200)
    snapped = torch.cdist((codes[first] + codes[second]) / 2, codes).argmin(1)
    assert found["nearest_code"]["frechet_50"] == pytest.approx(
        frechet(extract(images[snapped], Colour()), extract(images, Colour())), rel=0.02
    )


def test_the_nearest_reference_is_found_in_parts():
    points, references = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (700, 30))
    expected = torch.stack([(references - point).norm(dim=1).min() for point in points])
    torch.testing.assert_close(nearest_distances(points, references), expected, atol=1e-4, rtol=1e-4)
