import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from glo_lightning.encoding import encode, starting_codes
from glo_lightning.errors import InputError
from glo_lightning.module import GLO


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = GLO(40, latent_dim=6, image_size=32, width=4, init="random", n_pca=30)
    for layer in model.generator.layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    model.generator(model.latents.weight)  # BatchNorm's statistics are those of these codes
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images(model):
    """What the generator makes of nine codes: each has a code that reconstructs it exactly."""
    return model(model.project(torch.randn(9, 6, generator=torch.Generator().manual_seed(1))))


def zeros(number: int, per_image: int = 1) -> torch.Tensor:
    return torch.full((number, per_image, 6), 0.1)


def test_encoding_finds_the_code_of_a_generated_image(model, images):
    codes = model.encode(images, starts=zeros(9))
    before = float((model(zeros(9)[:, 0]) - images).square().mean())
    after = float((model(codes) - images).square().mean())
    assert after < 0.02 * before
    assert codes.norm(dim=1).max() <= 1 + 1e-6


def test_an_image_has_one_code_in_any_company(model, images):
    starts = torch.randn(9, 2, 6, generator=torch.Generator().manual_seed(2))
    together = model.encode(images, starts=starts, steps=40)
    for row in (0, 4, 8):
        assert torch.equal(
            model.encode(images[row : row + 1], starts=starts[row : row + 1], steps=40)[0], together[row]
        )
    assert torch.equal(model.encode(images.flip(0), starts=starts.flip(0), steps=40).flip(0), together)


def test_of_several_starts_the_best_is_kept(model, images):
    codes = model.encode(images, starts=zeros(9), steps=100)
    bad = torch.randn(9, 1, 6, generator=torch.Generator().manual_seed(3))
    again = model.encode(images, starts=torch.cat([bad, codes[:, None]], dim=1), steps=20)

    def losses(found):
        return torch.stack(
            [model.loss(model(code[None]), image[None]) for code, image in zip(found, images, strict=True)]
        )

    assert (losses(again) <= losses(codes) + 1e-6).all()


def test_another_loss_than_the_models_can_be_encoded_by(model, images):
    others = (images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(4))).clamp(-1, 1)
    l2 = torch.nn.MSELoss()
    by_l2, by_its_own = model.encode(others, starts=zeros(9), loss=l2), model.encode(others, starts=zeros(9))
    assert l2(model(by_l2), others) < l2(model(by_its_own), others)
    assert model.loss(model(by_its_own), others) < model.loss(model(by_l2), others)


def test_missing_pixels_do_not_matter(model, images):
    mask = torch.ones(1, 32, 32)
    mask[:, :, 16:] = 0
    other = images.clone()
    other[:, :, :, 16:] = torch.rand(9, 3, 32, 16) * 2 - 1
    assert torch.equal(
        model.encode(images, starts=zeros(9), mask=mask, steps=30),
        model.encode(other, starts=zeros(9), mask=mask, steps=30),
    )


def test_missing_pixels_are_filled_in(model, images):
    mask = torch.ones(1, 32, 32)
    mask[:, :, 20:] = 0
    filled = model(model.encode(images, starts=zeros(9), mask=mask))
    missing = slice(20, None)
    error = (filled - images)[..., missing].square().mean()
    assert error < 0.2 * (images[..., missing] - images[..., missing].mean(dim=0)).square().mean()


def test_the_model_stays_as_it_is(model, images):
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    with torch.inference_mode():
        model.encode(images.clone(), starts=zeros(9), steps=10)
    assert all(torch.equal(before[name], value) for name, value in model.generator.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_starting_codes_are_what_they_are_called(model, images):
    random = np.random.default_rng(0)
    smooth = random.normal(size=(40, 8)) * 2.0 ** -np.arange(8) @ random.normal(size=(8, 3 * 32 * 32))
    training = torch.from_numpy(np.clip(127 + 40 * smooth, 0, 255).astype(np.uint8)).view(40, 3, 32, 32)
    names = ["nearest", "pca", "mean", "random"]
    nearest, pca, mean, random = starting_codes(model.latents.weight, training, images, names, n_pca=30).unbind(dim=1)
    rows = training.flatten(1).double().numpy() / 127.5 - 1
    wanted = images.flatten(1).double().numpy()
    distances = ((wanted[:, None] - rows[None]) ** 2).sum(-1)
    assert torch.equal(nearest, model.latents.weight[distances.argmin(1)])
    expected = PCA(6, svd_solver="full").fit(rows[:30]).transform(wanted)
    signs = np.sign((pca.numpy() * expected).sum(0))
    np.testing.assert_allclose(pca.numpy() * signs, expected, atol=0.05 * expected.std())
    torch.testing.assert_close(mean, model.latents.weight.mean(dim=0).expand(9, -1))
    assert (random == random[0]).all()


def test_nearest_looks_at_known_pixels_alone(model):
    training = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    training[0, :, :, :16], training[1, :, :, 16:] = 255, 255
    image = torch.full((1, 3, 32, 32), -1.0)
    image[..., :16] = 1  # the first, but for pixels that are missing
    mask = torch.zeros(1, 32, 32)
    mask[..., 16:] = 1
    image[..., 16:] = 1
    nearest = starting_codes(model.latents.weight, training, image, ["nearest"], mask)[0, 0]
    assert torch.equal(nearest, model.latents.weight[1])


def test_an_unknown_start_is_named(model, images):
    with pytest.raises(InputError, match="starts middle"):
        starting_codes(model.latents.weight, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), images, ["middle"])


def test_starts_by_name_are_those_of_the_models_own_pca(model, images):
    training = (images + 1).mul(127.5).byte().repeat(4, 1, 1, 1)
    starts = starting_codes(model.latents.weight, training, images, ["pca", "mean"], n_pca=30)
    by_name = model.encode(images, training, ["pca", "mean"], steps=5)
    assert torch.equal(by_name, model.encode(images, starts=starts, steps=5))
    with pytest.raises(InputError, match="training"):
        model.encode(images)


def test_a_descent_ends_after_thirty_steps_without_gain(images):
    codes, steps = torch.zeros(9, 1, 6), []

    def generator(codes):
        steps.append(len(codes))
        return images[:1].expand(len(codes), -1, -1, -1) + 0 * codes.sum()

    encode(generator, images, codes, torch.nn.L1Loss(), lambda codes: codes, steps=1000)
    assert len(steps) == 31
