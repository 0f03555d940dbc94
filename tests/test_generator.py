import pytest
import torch

from glo_lightning.errors import InputError
from glo_lightning.generator import Generator, Project


@pytest.mark.parametrize("image_size", [32, 64, 128])
@pytest.mark.parametrize("latent_dim", [1, 13])
def test_codes_become_images_in_the_unit_range(image_size, latent_dim):
    images = Generator(latent_dim, image_size, width=4)(10 * torch.randn(3, latent_dim))
    assert images.shape == (3, 3, image_size, image_size)
    assert images.abs().max() <= 1


def test_layers_are_dcgans():
    weights = [tuple(p.shape) for p in Generator(100).parameters() if p.ndim == 4]
    assert weights == [(512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 4, 4)]


def test_first_layer_is_a_transposed_convolution():
    project, convolution = Project(5, 8), torch.nn.ConvTranspose2d(5, 8, 4, bias=False)
    convolution.weight.data = project.weight.detach().view(4, 4, 8, 5).permute(3, 2, 0, 1)
    codes = torch.randn(3, 5)
    torch.testing.assert_close(project(codes), convolution(codes[:, :, None, None]))
    assert abs(float(project.weight.detach().abs().max()) - 128**-0.5) < 1e-2


@pytest.mark.parametrize(("key", "value"), [("latent_dim", 0), ("image_size", 48), ("image_size", 256), ("width", 0)])
def test_wrong_sizes_are_named(key, value):
    with pytest.raises(InputError) as error:
        Generator(**{"latent_dim": 5, key: value})
    assert (error.value.key, error.value.value) == (key, value)
