import pytest
import torch
from torch.nn import functional as F

from glo_lightning.errors import InputError
from glo_lightning.generator import FirstLayer, Generator, make_generator


@pytest.mark.parametrize("image_size", [8, 32, 64, 128, 256])
@pytest.mark.parametrize("latent_dim", [1, 13])
def test_images_are_what_torchs_functions_make_of_the_codes(image_size, latent_dim):
    generator, codes = Generator(latent_dim, image_size, width=2).eval(), torch.randn(3, latent_dim)
    layers = list(generator.layers)
    images = (codes @ layers.pop(0).weight.T).view(3, 4, 4, -1).permute(0, 3, 1, 2)
    while isinstance(layers[0], torch.nn.BatchNorm2d):
        norm, _, convolution, *layers = layers
        images = (images - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        images = F.conv_transpose2d(images.clamp(min=0), convolution.weight, stride=2, padding=1)
    assert images.shape == (3, 3, image_size, image_size)
    torch.testing.assert_close(generator(codes), torch.tanh(images))


def test_layers_are_dcgans():
    weights = [tuple(p.shape) for p in Generator(100).parameters() if p.ndim == 4]
    assert weights == [(512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 4, 4)]


def test_first_layer_is_a_transposed_convolution():
    project, convolution = FirstLayer(5, 8), torch.nn.ConvTranspose2d(5, 8, 4, bias=False)
    convolution.weight.data = project.weight.detach().view(4, 4, 8, 5).permute(3, 2, 0, 1)
    codes = torch.randn(3, 5)
    torch.testing.assert_close(project(codes), convolution(codes[:, :, None, None]))
    assert abs(float(project.weight.detach().abs().max()) - 128**-0.5) < 1e-2


@pytest.mark.parametrize(("key", "value"), [("latent_dim", 0), ("image_size", 48), ("image_size", 4), ("width", 0)])
def test_wrong_sizes_are_named(key, value):
    with pytest.raises(InputError) as error:
        Generator(**{"latent_dim": 5, key: value})
    assert (error.value.key, error.value.value) == (key, value)


@pytest.mark.parametrize("name", ["os.abort", "collections.OrderedDict", "torch.relu", "nowhere.Generator", ""])
def test_a_generator_is_a_modules_class_and_nothing_else_is_called(name):
    with pytest.raises(InputError, match="class"):
        make_generator(name, 5, 32, 4)


def test_arguments_that_a_generator_does_not_take_are_named():
    with pytest.raises(InputError, match="depth"):
        make_generator("dcgan", 5, 32, 4, {"depth": 3})
