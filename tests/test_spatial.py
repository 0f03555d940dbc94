"""Codes that have a place for each place in the image: their PCA, and the generator that begins there."""

from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from sklearn.decomposition import PCA
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from glo_lightning.errors import InputError
from glo_lightning.generator import SpatialGenerator, clamp
from glo_lightning.images import from_uint8
from glo_lightning.latents import init_from_pca, to_ball
from glo_lightning.module import GLO
from glo_lightning.pca import fit_pca, join_patches, patches


@pytest.fixture(scope="module")
def images():
    """100 images (3, 16, 16), uint8, smooth enough for a PCA of 8x8 patches."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (100, 3, 5, 5), generator=random).float()
    return F.interpolate(coarse, 16, mode="bicubic").clamp(0, 255).byte()


def test_patches_are_cut_row_by_row_and_join_to_the_same_images(images):
    cut = patches(images, 4)
    assert torch.equal(cut[16 + 4 + 1], images[1, :, 4:8, 4:8].flatten())  # image 1, second row, second column
    assert torch.equal(join_patches(cut, 4, 3), images)


@pytest.mark.parametrize("whiten", [False, True])
def test_the_pca_of_patches_is_scikit_learns(images, whiten):
    rows = F.unfold(from_uint8(images), 8, stride=8).transpose(1, 2).reshape(400, -1).numpy()
    pca = PCA(5, svd_solver="full", whiten=whiten).fit(rows)
    expected = pca.transform(rows) / (1.5 * 20**0.5 if whiten else 1)
    fitted = fit_pca(images, 20, whiten, side=2)
    codes = fitted.codes(from_uint8(images))  # (100, 20): five coordinates of two by two places
    found = codes.view(100, 5, 4).transpose(1, 2).reshape(400, 5).numpy()
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3 * expected.std())
    decoded = F.unfold(fitted.images(codes), 8, stride=8).transpose(1, 2).reshape(400, -1).numpy()
    np.testing.assert_allclose(decoded, pca.inverse_transform(pca.transform(rows)), atol=1e-4)


def test_the_generator_begins_at_the_pca(images):
    table, generator = torch.zeros(100, 20), SpatialGenerator(20, 16, width=4, side=2)
    init_from_pca(table, lambda: [(images, torch.arange(100))], to_ball, 100, True, generator)
    pca = fit_pca(images, 20, side=2)
    inside = table.norm(dim=1) < 1 - 1e-6
    assert inside.float().mean() > 0.8
    expected = pca.images(pca.codes(from_uint8(images)))
    torch.testing.assert_close(generator(table)[inside], expected[inside], atol=1e-4, rtol=0)
    clamped = expected.clamp(-1, 1)
    assert not torch.equal(clamped, expected)
    torch.testing.assert_close(generator.eval()(table)[inside], clamped[inside], atol=1e-4, rtol=0)


def test_training_holds_back_what_is_brighter_than_white():
    generator = SpatialGenerator(8, 16, width=2, side=2)
    generator.decoder.bias.data.fill_(1.5)
    F.l1_loss(generator(torch.zeros(2, 8)), torch.ones(2, 3, 16, 16)).backward()
    assert (generator.decoder.bias.grad > 0).all()


@pytest.mark.parametrize("blocks", [0, 1])
def test_each_place_of_a_code_changes_the_image_around_it(blocks):
    torch.manual_seed(0)
    generator = SpatialGenerator(8 * 8 * 2, 64, width=4, side=8, blocks=blocks).eval()
    for layer in generator.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.1)
    code = torch.randn(1, 2, 8, 8) / 16
    other = code.clone()
    other[:, :, 1, 2] += 0.05
    change = (generator(other.flatten(1)) - generator(code.flatten(1)))[0].abs().amax(0)
    rows, columns = change.nonzero().unbind(1)
    assert change[8:16, 16:24].min() > 0
    places = 1 + 2 * blocks + 1  # further away: a 3x3 convolution, two in each block, and all doublings together
    assert rows.max() // 8 == 1 + places
    assert columns.max() // 8 == 2 + places


def test_clamped_images_have_the_gradient_of_images_that_were_not():
    values = torch.tensor([-1.5, -0.5, 2.0], requires_grad=True)
    clamped = clamp(values)
    assert clamped.tolist() == [-1.0, -0.5, 1.0]
    clamped.square().sum().backward()
    assert values.grad.tolist() == [-2.0, -1.0, 2.0]


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("side", {"side": 0}),
        ("side", {"side": 5}),
        ("side", {"side": 16}),
        ("side", {"side": 32}),
        ("width", {"width": 0}),
        ("blocks", {"blocks": -1}),
        ("latent_dim", {"latent_dim": 100}),
    ],
)
def test_sizes_that_do_not_fit_together_are_named(key, arguments):
    with pytest.raises(InputError) as error:
        SpatialGenerator(**{"latent_dim": 128, "image_size": 16, **arguments})
    assert error.value.key == key


def test_a_model_of_too_small_patches_is_refused():
    line = "latent_dim 256: a PCA of the 4x4 patches of 9 images has at most 192 dimensions"
    with pytest.raises(InputError, match=line):
        GLO(9, 256, 8, generator=partial(SpatialGenerator, side=4))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_every_process_gets_the_generator_that_begins_at_the_pca(images, monkeypatch):
    sent = []
    monkeypatch.setattr("glo_lightning.module.broadcast_from_first", lambda tensor: sent.append(tensor.data_ptr()))
    model = GLO(100, 20, 16, generator=partial(SpatialGenerator, width=4, side=2), optimizer=partial(SGD, lr=0.0))
    batches = DataLoader(TensorDataset(from_uint8(images), torch.arange(100)), batch_size=50)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    Trainer(max_steps=1, limit_val_batches=0, accelerator="cpu", enable_model_summary=False, **quiet).fit(
        model, batches
    )
    assert {weight.data_ptr() for weight in model.generator.parameters()} <= set(sent)
    assert model.generator.decoder.weight.abs().max() > 0
