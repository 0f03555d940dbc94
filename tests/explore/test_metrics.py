import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.linalg import sqrtm
from sklearn.datasets import load_sample_images
from torch import nn

from glo_lightning.data.attributes import Attributes
from glo_lightning.errors import InputError
from glo_lightning.explore.features import extract, load_features
from glo_lightning.explore.metrics import feature_metrics, neighbours_kept, probe, quality
from glo_lightning.images import from_uint8
from glo_lightning.pca import fit_pca


def random_images(number: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Means(nn.Module):
    """Four features of an image: the mean of each colour, and of its upper half."""

    def forward(self, images):
        images = images.float()
        return torch.cat([images.mean(dim=(2, 3)), images[:, :, :16].mean(dim=(1, 2, 3))[:, None]], dim=1)


def test_quality_is_over_all_pixels_and_images():
    generated, images = random_images(150), random_images(150, seed=1)
    measured = quality(generated, images, nn.L1Loss())
    error = ((generated.double() - images.double()) / 2).square().mean()
    assert measured["psnr"] == pytest.approx(float(-10 * error.log10()), abs=1e-4)
    assert measured["loss"] == pytest.approx(float((generated - images).abs().mean()), rel=1e-5)
    assert quality(images, images, nn.L1Loss())["ssim"] == pytest.approx(1, abs=1e-5)


def test_ssim_is_that_of_wang_et_al():
    """By SciPy's Gaussian filter, sigma 1.5, 11 pixels, of images in [0, 1], without the border."""
    images = random_images(3)
    generated = (0.7 * images + 0.3 * random_images(3, seed=1)).clamp(-1, 1)
    a, b = (part.double().numpy() / 2 + 0.5 for part in (generated, images))

    def blur(x):
        return ndimage.gaussian_filter(x, (0, 0, 1.5, 1.5), radius=(0, 0, 5, 5))[..., 5:-5, 5:-5]

    means, variances = (blur(a), blur(b)), (blur(a * a) - blur(a) ** 2, blur(b * b) - blur(b) ** 2)
    covariance, c1, c2 = blur(a * b) - means[0] * means[1], 0.01**2, 0.03**2
    luminance = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
    structure = (2 * covariance + c2) / (variances[0] + variances[1] + c2)
    expected = (luminance * structure).mean()
    assert 0.1 < expected < 0.9
    assert quality(generated, images, nn.L1Loss())["ssim"] == pytest.approx(expected, abs=2e-3)


def test_pca_reconstructs_what_lies_in_its_plane():
    random = np.random.default_rng(0)
    plane = random.normal(size=(50, 3)) @ random.normal(size=(3, 3 * 32 * 32)) * 15 + 127
    images = torch.from_numpy(np.clip(plane, 0, 255).astype(np.uint8)).view(50, 3, 32, 32)
    errors = []
    for latent_dim in (1, 3):
        generated = fit_pca(images[:40], latent_dim).reconstruct(from_uint8(images[40:]))
        errors.append(float((generated - (images[40:].float() / 127.5 - 1)).abs().mean()))
    assert errors[1] < 0.003  # rounding to bytes
    assert errors[0] > 0.1


def test_neighbours_kept_counts_each_codes_own():
    codes = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert neighbours_kept(codes, codes) == 1
    assert neighbours_kept(codes, 3 * codes + 1) == 1  # moved and scaled together, all neighbours stay
    generator = torch.Generator().manual_seed(0)  # distances that are all different
    line, swapped = torch.rand(2, 12, 1, generator=generator)
    both = [
        np.argsort(np.abs(part - part.T) + 99 * np.eye(12), 1, kind="stable")[:, :2]
        for part in (line.numpy(), swapped.numpy())
    ]
    expected = np.mean([len(set(a) & set(b)) / 2 for a, b in zip(*both, strict=True)])
    assert neighbours_kept(line, swapped, 2) == pytest.approx(expected)


def test_distances_are_those_of_the_features():
    generated, images = ((random_images(300, seed=seed) * (60 + 20 * seed) + 127).byte() for seed in (0, 1))
    measured = feature_metrics(extract(generated, Means()), extract(images, Means()))
    a, b = (Means()(part).double().numpy() for part in (generated, images))
    product = sqrtm(np.cov(a.T) @ np.cov(b.T))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * np.real(product))
    assert measured["frechet"] == pytest.approx(expected, rel=1e-3)


def test_the_kernel_distance_is_the_unbiased_one_of_a_cubic_kernel():
    class Unit(Means):
        def forward(self, images):
            return super().forward(images) / 64

    generated, images = ((random_images(300, seed=seed) * 60 + 127 - 60 * seed).clamp(0, 255).byte() for seed in (0, 1))
    a, b = (Unit()(part).double().numpy() for part in (generated, images))

    def kernel(x, y):
        return (x @ y.T / 4 + 1) ** 3

    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (300 * 299) for x in (a, b)]
    expected = sum(within) - 2 * kernel(a, b).mean()  # of all images: every subset is another order of them
    assert expected > 1
    assert feature_metrics(extract(generated, Unit()), extract(images, Unit()))["kernel"] == pytest.approx(
        expected, rel=1e-4
    )


def test_precision_and_recall_know_which_side_is_missing():
    wide, narrow = torch.zeros(2, 40, 3, 32, 32, dtype=torch.uint8)
    wide += (torch.arange(40) * 6).byte()[:, None, None, None]
    narrow += (torch.arange(40) // 4 + 60).byte()[:, None, None, None]  # well inside the wide ones
    measured = feature_metrics(extract(narrow, Means()), extract(wide, Means()))
    assert measured["precision"] == 1
    assert measured["recall"] < 0.3


@pytest.mark.parametrize(("number", "meant"), [(0, 698), (1, 985)], ids=["palace", "daisy"])
def test_efficientnets_features_tell_a_palace_from_a_daisy(number, meant):
    """Its own last layer, on our features of scikit-learn's photographs, names ImageNet's class."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install -e '.[metrics]'")
    features = load_features("efficientnet")
    photograph = torch.from_numpy(load_sample_images().images[number].copy()).permute(2, 0, 1)[None, :, :, 106:533]
    found = extract(photograph, features)
    assert found.shape == (1, 1280)
    assert int(features.network._fc(found).argmax()) == meant


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_features_are_a_class_or_a_torchscript_file(tmp_path):
    torch.jit.save(torch.jit.script(nn.Flatten()), tmp_path / "features.pt")
    images = torch.zeros(2, 3, 4, 4)
    assert load_features(str(tmp_path / "features.pt"))(images).shape == (2, 48)
    assert load_features("torch.nn.Flatten")(images).shape == (2, 48)


@pytest.mark.parametrize("name", ["nonsense", "torch.nn.Nonsense", "torch.nn.Conv2d", __file__])
def test_features_that_cannot_be_had_are_named(name):
    with pytest.raises(InputError, match="features"):
        load_features(name)


def test_a_probe_tells_what_is_in_the_codes_and_no_more():
    random = torch.Generator().manual_seed(0)
    codes = torch.randn(600, 5, generator=random)
    left = ["yes" if code[0] > 0 else "" for code in codes]
    coin = [str(int(value)) for value in torch.randint(2, (600,), generator=random)]
    attributes = Attributes({"left": left, "coin": coin, "one": ["same"] * 600})
    found = probe(codes[:500], codes[500:], attributes, torch.arange(500, 600))
    assert found["left"] > 0.95
    assert 0.3 < found["coin"] < 0.7
    assert "one" not in found
    voted = probe(codes[:500], codes[500:], attributes, torch.arange(500, 600), neighbours=5)
    assert voted["left"] > 0.8
    assert voted.keys() == found.keys()


def test_a_probe_leaves_out_what_is_not_labelled():
    codes = torch.tensor([[-1.0], [1.0], [-1.1], [1.1], [0.0], [5.0], [-2.0], [2.0]])
    attributes = Attributes({"side": ["l", "r", "l", "r", None, None, "l", "r"], "none": [*"abab", *[None] * 4]})
    for neighbours in (0, 1):
        assert probe(codes[:5], codes[5:], attributes, torch.arange(5, 8), neighbours) == {"side": 1.0}
