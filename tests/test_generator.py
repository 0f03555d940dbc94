from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from glo_lightning.errors import InputError
from glo_lightning.generator import FirstLayer, Generator, SkipGenerator, make_generator
from glo_lightning.parts import describe_part


def dcgan(state: dict[str, torch.Tensor], codes: torch.Tensor, training: bool) -> torch.Tensor:
    """DCGAN on codes (B, D) by torch's functions alone, from the weights of a Generator in the order of its state."""
    tensors = list(state.values())
    weight = tensors.pop(0).unflatten(0, (4, 4, -1)).permute(3, 2, 0, 1)  # (D, channels, 4, 4)
    images = F.conv_transpose2d(codes[:, :, None, None], weight)
    while tensors:
        gain, bias, mean, variance, _, weight = tensors[:6]
        del tensors[:6]
        images = F.relu(F.batch_norm(images, mean.clone(), variance.clone(), gain, bias, training))
        images = F.conv_transpose2d(images, weight, stride=2, padding=1)
    return images.tanh()


@pytest.mark.parametrize(("image_size", "width", "latent_dim"), [(8, 4, 1), (64, 4, 13), (256, 1, 13)])
def test_codes_become_images_by_dcgans_layers(image_size, width, latent_dim):
    torch.manual_seed(0)
    generator = Generator(latent_dim, image_size, width=width)
    for name, value in generator.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():  # BatchNorm's, which begin as ones and zeros
            value.copy_(torch.rand_like(value) + (0.5 if "bias" not in name and "mean" not in name else -0.5))
    codes = torch.randn(3, latent_dim)
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    for training in (False, True):  # eval first: training changes the averages
        images = generator.train(training)(codes)
        assert images.shape == (3, 3, image_size, image_size)
        torch.testing.assert_close(images, dcgan(state, codes, training), rtol=1e-4, atol=1e-5)


def test_layers_are_dcgans():
    weights = [tuple(p.shape) for p in Generator(100).parameters() if p.ndim == 4]
    assert weights == [(512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 4, 4)]


def test_first_layer_begins_as_a_transposed_convolution_does():
    layers = FirstLayer(50, 64), nn.ConvTranspose2d(50, 64, 4, bias=False)
    first, convolution = (layer.weight.detach() for layer in layers)
    for moment in (torch.std, torch.amax, torch.amin):
        torch.testing.assert_close(moment(first), moment(convolution), rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("latent_dim", 0), ("image_size", 48), ("image_size", 4), ("image_size", 0), ("width", 0)],
)
def test_wrong_sizes_are_named(key, value):
    with pytest.raises(InputError) as error:
        Generator(**{"latent_dim": 5, key: value})
    assert (error.value.key, error.value.value) == (key, value)


# ----------------------------------------------------------------------------------------------- generators by class


class Grey(nn.Module):
    """A generator of one's own, which keeps what it was made with."""

    def __init__(self, latent_dim, image_size, channels, depth=1):
        super().__init__()
        self.made_with = (latent_dim, image_size, channels, depth)

    def forward(self, codes):
        return torch.rand(len(codes), 1, 1, 1).expand(-1, self.made_with[2], *[self.made_with[1]] * 2)


class Smaller(Grey):
    """Makes images of half the size."""

    def forward(self, codes):
        return super().forward(codes)[..., ::2, ::2]


class Pair(Grey):
    """Makes two things of codes."""

    def forward(self, codes):
        return codes, codes


class Deeper(Grey):
    """Takes codes of three dimensions alone."""

    def forward(self, codes):
        return codes @ torch.zeros(3, 1)


def make(part, latent_dim=5, image_size=32, channels=3):
    """What GLO makes of a class, a partial of one, or of the path of a class."""
    described = {"class_path": part} if isinstance(part, str) else part
    return make_generator(describe_part(described, "generator"), latent_dim, image_size, channels)


def test_a_generator_is_made_of_a_class_or_of_a_partial_of_one():
    assert make(partial(Generator, width=4))(torch.zeros(2, 5)).shape == (2, 3, 32, 32)
    assert make(Grey, image_size=48).made_with == (5, 48, 3, 1)
    assert make(partial(Grey, depth=2), channels=1).made_with == (5, 32, 1, 2)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("torch.nn.ReLU", r"takes from 1 to 2|positional"),
        (partial(Grey, colour=1), "unexpected keyword argument 'colour'"),
        (partial(Grey, channels=5), "multiple values"),
        ("torch.nn.Transformer", r"\(AssertionError at activation.py:"),
        (partial(SkipGenerator, code_scale="x"), r"\(TypeError at generator.py:"),
        (partial(SkipGenerator, skip_layers=3), r"\(TypeError at generator.py:"),
    ],
)
def test_what_a_class_raises_is_one_line_and_says_where(part, said):
    with pytest.raises(InputError, match=f"generator .*: cannot be made with its arguments .*({said})"):
        make(part, latent_dim=7)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Smaller", r"makes \(2, 3, 16, 16\) from two codes. Give one that makes \(2, 3, 32, 32\)"),
        ("Pair", "makes tuple from two codes. Give one"),
        ("Deeper", r"does not take codes of latent_dim 5 \(RuntimeError at test_generator.py:\d+: mat1"),
    ],
)
def test_a_generator_of_other_images_is_named_at_the_start(name, said):
    with pytest.raises(InputError, match=f"generator test_generator.{name}: {said}"):
        make(f"test_generator.{name}")


def test_trying_a_generator_leaves_it_and_random_numbers_alone():
    torch.manual_seed(0)
    generator, after = make(partial(Generator, width=4)), torch.rand(1)
    torch.manual_seed(0)
    untried = Generator(5, 32, width=4)
    assert torch.equal(after, torch.rand(1))
    assert generator.training
    assert all(
        torch.equal(one, other)
        for one, other in zip(generator.state_dict().values(), untried.state_dict().values(), strict=True)
    )


# ------------------------------------------------------------------------------------------------- skips from the code


@pytest.mark.parametrize(("image_size", "channels"), [(32, 3), (64, 1)])
def test_skips_begin_at_zero_as_the_dcgan_of_the_same_seed(image_size, channels):
    torch.manual_seed(0)
    skip = make(partial(SkipGenerator, width=4), 5, image_size, channels)
    torch.manual_seed(0)
    plain = Generator(5, image_size, channels, width=4)
    state = skip.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    codes = torch.randn(3, 5)
    torch.testing.assert_close(skip(codes), plain(codes))


def test_a_skip_adds_a_linear_map_of_the_code_to_what_its_layer_makes():
    torch.manual_seed(0)
    skip, codes = SkipGenerator(5, 16, width=4, skip_layers=[1], code_scale=2.0), torch.randn(3, 5)
    nn.init.normal_(skip.skips["1"].weight, std=0.1)
    nn.init.normal_(skip.skips["1"].bias, std=0.1)
    added = 2 * 5**0.5 * codes @ skip.skips["1"].weight.T + skip.skips["1"].bias
    image = torch.atanh(Generator.forward(skip, codes).double()) + added.view(3, 16, 16, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(skip(codes), image.tanh().float(), atol=1e-5, rtol=1e-4)


def test_every_skip_reaches_its_own_layer():
    torch.manual_seed(0)
    skip, codes = SkipGenerator(5, 32, width=4), torch.randn(3, 5)
    before = skip(codes)
    for level in skip.skips:
        skip.skips[level].bias.data.normal_()
        after = skip(codes)
        assert not torch.allclose(before, after, atol=1e-3), level
        before = after
    skip(codes).square().mean().backward()
    assert all(parameter.grad is not None for parameter in skip.parameters())


def test_a_few_steps_of_sgd_find_in_the_skip_what_least_squares_find():
    """Of images that are linear in codes of the ball, at the rate that the recipes give the generator."""
    torch.manual_seed(0)
    codes = nn.functional.normalize(torch.randn(256, 6)) * torch.rand(256, 1) ** (1 / 6)
    images = (0.5 * codes @ torch.randn(6, 3 * 16 * 16)).view(256, 3, 16, 16).clamp(-0.9, 0.9)
    losses = {}
    for name, generator in (("plain", Generator(6, 16, width=4)), ("skips", SkipGenerator(6, 16, width=4))):
        optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
        for step in range(100):
            some = torch.arange(32) + 32 * (step % 8)
            loss = (generator(codes[some]) - images[some]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[name] = float(loss.detach())
    assert losses["skips"] < 0.3 * losses["plain"]
