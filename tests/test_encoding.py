import copy
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from glo_lightning.encoding import EVAL_EVERY, PATIENCE, encode, starting_codes
from glo_lightning.errors import InputError
from glo_lightning.explore.operators import Mask
from glo_lightning.generator import Generator
from glo_lightning.latents import to_ball
from glo_lightning.module import GLO


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = GLO(40, latent_dim=6, image_size=32, generator=partial(Generator, width=4), init="random", n_pca=30)
    for layer in model.generator.layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    model.generator(model.latents.weight)  # BatchNorm's statistics are those of these codes
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images(model):
    """What the generator makes of nine codes: each has a code that reconstructs it exactly."""
    return model(to_ball(torch.randn(9, 6, generator=torch.Generator().manual_seed(1))))


@pytest.fixture(scope="module")
def training():
    """40 images (3, 32, 32) near a plane."""
    random = np.random.default_rng(0)
    smooth = random.normal(size=(40, 8)) * 2.0 ** -np.arange(8) @ random.normal(size=(8, 3 * 32 * 32))
    return torch.from_numpy(np.clip(127 + 40 * smooth, 0, 255).astype(np.uint8)).view(40, 3, 32, 32)


def same_starts(number: int) -> torch.Tensor:
    return torch.full((number, 1, 6), 0.1)


def random_starts(number: int, per_image: int, seed: int) -> torch.Tensor:
    return torch.randn(number, per_image, 6, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------------- encoding


def test_encoding_finds_the_code_of_a_generated_image(model, images):
    codes = model.encode(images, starts=same_starts(9))
    before = float((model(same_starts(9)[:, 0]) - images).square().mean())
    after = float((model(codes) - images).square().mean())
    assert after < 0.02 * before
    assert codes.norm(dim=1).max() <= 1 + 1e-6


@pytest.mark.parametrize("starts", [("pca", "nearest", "mean", "random"), ("nearest",)])
def test_a_model_whose_weights_are_learned_encodes_as_a_frozen_one(model, images, training, starts):
    learned = copy.deepcopy(model).requires_grad_(True)
    codes = learned.encode(images, training, starts, steps=10)
    assert torch.equal(codes, model.encode(images, training, starts, steps=10))
    assert all(weight.grad is None for weight in learned.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_encodes_as_well(model, images, dtype):
    half = copy.deepcopy(model).to(dtype)
    codes = half.encode(images.to(dtype), starts=same_starts(9).to(dtype))
    assert codes.dtype == dtype
    before = float((half(same_starts(9)[:, 0].to(dtype)) - images).square().mean())
    assert float((half(codes) - images).square().mean()) < 0.02 * before


def test_whatever_generates_can_be_encoded_with(images):
    """A linear generator, whose best codes are known: the least squares."""
    weight = torch.randn(6, 3 * 8 * 8, generator=torch.Generator().manual_seed(2)) / 6
    wanted = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))
    targets = (wanted @ weight).view(20, 3, 8, 8)
    codes = encode(
        lambda codes: (codes @ weight).view(-1, 3, 8, 8),
        targets,
        random_starts(20, 2, seed=4),
        nn.functional.mse_loss,
        project=lambda codes: codes,
        steps=400,
    )
    torch.testing.assert_close(codes, wanted, atol=0.02, rtol=0)


def test_a_penalty_is_added_to_the_loss_of_each_code():
    """Ridge regression, by a linear generator; and of two starts that reconstruct alike it chooses one."""
    weight, _ = torch.linalg.qr(torch.randn(3 * 8 * 8, 6, generator=torch.Generator().manual_seed(2)))
    weight = 8 * weight.T
    wanted = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))
    codes = encode(
        lambda codes: (codes @ weight).view(-1, 3, 8, 8),
        (wanted @ weight).view(20, 3, 8, 8),
        random_starts(20, 2, seed=4),
        nn.functional.mse_loss,
        project=lambda codes: codes,
        steps=400,
        penalty=lambda codes: 1 / 3 * codes.square().sum(dim=1),  # as much as the loss weighs them: 64 / 192
    )
    torch.testing.assert_close(codes, wanted / 2, atol=0.05, rtol=0)  # it ends where a step gains a thousandth
    both, images = torch.tensor([[[3.0], [-3.0]]]), torch.zeros(1, 1, 1, 1)
    (code,) = encode(
        lambda codes: codes[:, :, None, None].square(), images, both, nn.functional.mse_loss, lambda codes: codes,
        steps=0, penalty=lambda codes: codes[:, 0],
    )  # fmt: skip
    assert code < 0


def test_a_models_encode_is_encode_with_its_own_parts_and_starts(model, images, training):
    names = ["nearest", "pca"]
    starts = starting_codes(model.latents.weight, training, images, names, n_pca=30, whiten=False)
    expected = encode(model.generator, images, starts, model.loss, model.project, steps=20)
    assert torch.equal(model.encode(images, training, names, steps=20), expected)
    with pytest.raises(InputError, match="training None: starts by name need the training images"):
        model.encode(images, starts=names)


def test_an_image_has_one_code_in_any_company(model, images):
    starts = random_starts(9, 2, seed=2)
    together = model.encode(images, starts=starts, steps=20)
    for row in (0, 4, 8):
        alone = model.encode(images[row : row + 1], starts=starts[row : row + 1], steps=20)
        assert torch.equal(alone[0], together[row])
    backwards = model.encode(images.flip(0), starts=starts.flip(0), steps=20)
    assert torch.equal(backwards.flip(0), together)


def losses(model, codes, images, loss=None):
    """Each image's own."""
    loss = loss or model.loss
    return torch.stack([loss(model(code[None]), image[None]) for code, image in zip(codes, images, strict=True)])


def test_of_several_starts_the_best_is_kept(model, images):
    codes = model.encode(images, starts=same_starts(9), steps=100)
    bad = random_starts(9, 1, seed=3)
    again = model.encode(images, starts=torch.cat([bad, codes[:, None]], dim=1), steps=20)
    assert (losses(model, again, images) <= losses(model, codes, images) + 1e-6).all()


def test_a_descent_ends_after_thirty_steps_without_gain(model, images):
    """Nothing is gained from the exact code on; looks are ten steps apart, and the first is no gain over nothing."""
    codes = to_ball(torch.randn(9, 6, generator=torch.Generator().manual_seed(1)))
    calls = []

    def generator(some):
        calls.append(len(some))
        return model.generator(some)

    found = encode(generator, images, codes[:, None], model.loss, model.project, steps=150)
    assert len(calls) == PATIENCE * EVAL_EVERY + 1 == 31
    assert torch.equal(found, to_ball(codes))


def test_another_loss_than_the_models_can_be_encoded_by(model, images):
    others = (images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(4))).clamp(-1, 1)
    l2, starts = nn.MSELoss(), same_starts(9)
    by_l2, by_its_own = model.encode(others, starts=starts, loss=l2), model.encode(others, starts=starts)
    assert l2(model(by_l2), others) < l2(model(by_its_own), others)
    assert model.loss(model(by_its_own), others) < model.loss(model(by_l2), others)


def behind_a_mask(known, generate, images, loss):
    """What ``encode`` is given of images (B, C, H, W) of which a mask's known pixels are left."""
    operator = Mask(known)
    return lambda codes: operator(generate(codes)), operator(images), same_starts(len(images)), loss, to_ball


def test_missing_pixels_are_filled_in(model, images):
    known = torch.ones(1, 32, 32)
    known[:, :, 20:] = 0
    filled = model(encode(*behind_a_mask(known, model, images, model.loss)))
    missing = slice(20, None)
    error = (filled - images)[..., missing].square().mean()
    assert error < 0.2 * (images[..., missing] - images[..., missing].mean(dim=0)).square().mean()


def test_the_model_stays_as_it_is(model, images):
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    with torch.inference_mode():
        model.encode(images.clone(), starts=same_starts(9), steps=10)
    assert all(torch.equal(before[name], value) for name, value in model.generator.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# ------------------------------------------------------------------------------------------------------------- starts


def test_starting_codes_are_what_they_are_called(model, images, training):
    names = ["nearest", "pca", "mean", "random"]
    table = model.latents.weight
    state = torch.get_rng_state()
    nearest, pca, mean, random = starting_codes(table, training, images, names, n_pca=30).unbind(dim=1)
    assert torch.equal(torch.get_rng_state(), state)
    rows = training.flatten(1).double().numpy() / 127.5 - 1
    wanted = images.flatten(1).double().numpy()
    distances = ((wanted[:, None] - rows[None]) ** 2).sum(-1)
    assert torch.equal(nearest, table[distances.argmin(1)])
    expected = PCA(6, svd_solver="full").fit(rows[:30]).transform(wanted)
    signs = np.sign((pca.numpy() * expected).sum(0))
    np.testing.assert_allclose(pca.numpy() * signs, expected, atol=0.05 * expected.std())
    torch.testing.assert_close(mean, table.mean(dim=0).expand(9, -1))
    torch.manual_seed(0)
    assert torch.equal(random, torch.randn(1, 6).expand(9, -1))
    torch.set_rng_state(state)
    other = starting_codes(table, training, images, ["random"], seed=1)[:, 0]
    assert not torch.equal(other, random)


def test_whitened_pca_starts_are_the_plain_ones_scaled(model, images, training):
    plain, whitened = (
        starting_codes(model.latents.weight, training, images, ["pca"], n_pca=30, whiten=whiten)[:, 0]
        for whiten in (False, True)
    )
    rows = training[:30].flatten(1).double().numpy() / 127.5 - 1
    deviations = PCA(6, svd_solver="full").fit(rows).explained_variance_ ** 0.5
    np.testing.assert_allclose(plain / whitened, np.broadcast_to(1.5 * 6**0.5 * deviations, (9, 6)), rtol=0.01)


def test_an_unknown_start_is_named(model, images, training):
    with pytest.raises(InputError, match="starts middle"):
        starting_codes(model.latents.weight, training, images, ["middle"])


def test_neither_missing_pixels_nor_what_is_generated_in_them_matter(model, images):
    known = torch.ones(1, 32, 32)
    known[:, :, 16:] = 0
    others = torch.where(known > 0, images, 0.5)

    def other(codes):
        return torch.where(known > 0, model(codes), 0.7 - model(codes).flip(1))

    found = [
        encode(*behind_a_mask(known, generate, pictures, model.loss), steps=20)
        for generate, pictures in ((model, images), (model, others), (other, images))
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
