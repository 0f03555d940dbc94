"""scripts/studies/decoders.py, image_losses.py and equal_seconds.py at their smallest."""

import json
import runpy
import sys

import decoders
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from equal_seconds import GENERATORS, kept_megabytes, rows_of
from image_losses import FocalFrequency, Perceptual, ShiftTolerant, WatsonDFT
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from glo_lightning.errors import InputError
from glo_lightning.module import GLO


class OneLayer(nn.Module):
    def __init__(self, latent_dim: int, image_size: int, width: int, channels: int = 3):
        super().__init__()
        self.layer, self.shape = nn.Linear(latent_dim, channels * image_size**2), (channels, image_size, image_size)

    def forward(self, codes):
        return self.layer(codes).tanh().unflatten(1, self.shape)


NAMES = [name for name in GENERATORS if hasattr(decoders, name)]
OWN_BATCH = ["Residual", "Skip"]  # whose images depend on the others of a batch, in training


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("image_size", "channels"), [(64, 3), (32, 1)])
def test_every_generator_takes_codes_to_images_and_gives_each_parameter_a_gradient(name, image_size, channels):
    torch.manual_seed(0)
    generator = getattr(decoders, name)(5, image_size, 8, channels)
    images = generator(torch.randn(4, 5))
    assert images.shape == (4, channels, image_size, image_size)
    assert images.abs().max() <= 1
    images.square().mean().backward()
    without = [key for key, value in generator.named_parameters() if value.grad is None]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_on_its_own_code_and_only_with_batchnorm_on_the_others(name):
    torch.manual_seed(0)
    generator, codes = getattr(decoders, name)(5, 32, 8), torch.randn(4, 5)
    assert not torch.allclose(generator(codes)[0], generator(codes)[1], atol=1e-3)
    alone = torch.stack([codes[0], *torch.randn(3, 5)])
    same = torch.allclose(generator(codes)[0], generator(alone)[0], atol=1e-5)
    assert same == (name not in OWN_BATCH)


def test_rms_leaves_each_pixel_a_mean_square_of_one():
    torch.testing.assert_close(
        decoders.Rms()(torch.randn(2, 7, 3, 3)).square().mean(1), torch.ones(2, 3, 3), rtol=1e-4, atol=0
    )


def test_what_a_step_keeps_is_the_activations_that_its_gradients_need():
    model = GLO(40, 4, image_size=32, generator=f"{__name__}.OneLayer", init="random")
    images, code = 32 * 3 * 32 * 32 * 4, 32 * 4 * 4
    assert kept_megabytes(model) == pytest.approx((images + code) / 1e6)  # tanh keeps its output, the layer its input


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("generators", ["Normless", "Transformer"]),
        ("losses", ["focal frequency", "Watson-DFT"]),
        ("codes", ["frozen", "4 fresh steps", "a mixture"]),
    ],
)
def test_each_is_trained_once_and_its_row_printed(tmp_path, monkeypatch, capsys, flat_lmdb, what, names):
    results = tmp_path / "results.json"
    arguments = ["equal_seconds.py", what, "--json", str(results), "--root", str(flat_lmdb), "--num_samples", "40"]
    arguments += ["--holdout", "8", "--image_size", "32", "--latent_dim", "4", "--seconds", "0.01", "--encoded", "4"]
    arguments += ["--rates", "AdamW 0.001", "--pictures", str(tmp_path / "pictures"), "--only", *names]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(REPOSITORY / "scripts" / "studies" / "equal_seconds.py"), run_name="__main__")
        assert f"| {names[0]} | AdamW 0.001 |" in capsys.readouterr().out
    wanted = {"images.png"} | {f"{name}, AdamW 0.001.png" for name in names}
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == wanted
    kept = json.loads(results.read_text())
    assert [len(kept[f"{name}, AdamW 0.001"]) for name in names] == [1] * len(names)


def test_a_name_means_a_row_for_each_rate_and_one_with_a_rate_that_row():
    assert rows_of("pixels, L2", ["SGD 1", "SGD 3"]) == [("pixels, L2", "SGD 1"), ("pixels, L2", "SGD 3")]
    assert rows_of("pixels, L2, AdamW 0.001", ["SGD 1"]) == [("pixels, L2", "AdamW 0.001")]


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """VGG16 with random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pt"
    torch.save({f"features.{key}": value for key, value in make_layers(cfgs["D"]).state_dict().items()}, file)
    return file


@pytest.fixture
def losses(vgg):
    return {"focal": FocalFrequency(), "watson": WatsonDFT(), "perceptual": Perceptual(weights=str(vgg))}


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("name", ["focal", "watson", "perceptual"])
def test_a_loss_is_least_where_images_are_equal_and_a_step_against_its_gradient_lowers_it(losses, name):
    loss, images = losses[name], pictures(0)
    generated = pictures(1).requires_grad_()
    far = loss(generated, images)
    far.backward()
    nearer = generated.detach() - 1e-3 * generated.grad / generated.grad.abs().max()
    assert loss(images, images) < 1e-3 < loss(nearer, images) < far


def test_the_focal_frequency_loss_weighs_by_the_distance_over_the_largest_of_an_image():
    generated, images = pictures(0), pictures(1)
    expected = 0.0
    for one, two in zip(generated.double(), images.double(), strict=True):
        for a, b in zip(one.numpy(), two.numpy(), strict=True):
            distance = np.abs(np.fft.fft2(a) - np.fft.fft2(b)) / 32  # unitary
            expected += (distance / distance.max() * distance**2).mean() / 6 + ((a - b) ** 2).mean() / 6
    assert float(FocalFrequency()(generated, images)) == pytest.approx(expected, rel=1e-4)


def test_watsons_distance_is_smaller_where_content_hides_the_error():
    """The same error is hidden by texture of its own frequency, and seen on a flat ground."""
    columns = torch.arange(32.0)
    wave = torch.cos(columns * torch.pi / 2).expand(1, 3, 32, 32)
    flat, textured, error = torch.zeros(1, 3, 32, 32), 0.8 * wave, 0.1 * wave
    distance = WatsonDFT()
    assert distance(textured + error, textured) < 0.5 * distance(flat + error, flat)


def test_the_perceptual_loss_compares_the_features_of_that_file_and_leaves_them_as_they_are(vgg):
    loss, generated, images = Perceptual(weights=str(vgg), weight=2.0).train(), pictures(0), pictures(1)
    network = make_layers(cfgs["D"])
    network.load_state_dict({key.removeprefix("features."): value for key, value in torch.load(vgg).items()})
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    scaled = [((x + 1) / 2 - mean) / deviation for x in (generated, images)]
    terms = [F.l1_loss(*(network[:depth](x.clone()) for x in scaled)) for depth in (4, 9, 16, 23)]
    expected = F.l1_loss(generated, images) + 2 * torch.stack(terms).mean()
    torch.testing.assert_close(loss(generated, images), expected)
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not loss.trunk.training


def test_a_trunk_by_class_path_makes_the_features():
    loss, generated, images = Perceptual(trunk=f"{__name__}.Halves"), pictures(0), pictures(1)
    expected = F.l1_loss(generated, images) + F.l1_loss(generated / 2, images / 2)
    torch.testing.assert_close(loss(generated, images), expected)


class Halves(nn.Module):
    def forward(self, images):
        return [images / 2]


def shift_tolerant(name: str) -> dict[str, torch.Tensor]:
    """Random weights of four channels a layer, with the keys of stlpips-pytorch's files."""
    sizes = {"alex": {"1.0": 11, "2.5": 5, "3.9": 3, "4.11": 3, "5.13": 3}}
    numbers = {1: (0, 2), 2: (6, 8), 3: (12, 14, 16), 4: (20, 22, 24), 5: (28, 30, 32)}
    sizes["vgg"] = {f"{depth}.{number}": 3 for depth, found in numbers.items() for number in found}
    blurs = {"alex": "1.1 2.4 3.8", "vgg": "2.5 3.11 4.19 5.27"}[name].split()
    random, row = torch.Generator().manual_seed(0), torch.tensor([1.0, 2.0, 1.0]) / 4
    found = {f"net.slice{blur}.filt": row.outer(row).expand(4, 1, 3, 3) for blur in blurs}
    for layer, size in sizes[name].items():
        before = 3 if layer == "1.0" else 4
        found[f"net.slice{layer}.weight"] = torch.randn(4, before, size, size, generator=random) / before**0.5 / size
        found[f"net.slice{layer}.bias"] = torch.randn(4, generator=random) / 10
    return found | {f"lin{depth}.model.1.weight": torch.rand(1, 4, 1, 1, generator=random) for depth in range(5)}


@pytest.mark.parametrize(("name", "sides"), [("alex", [14, 7, 4, 4, 4]), ("vgg", [32, 17, 9, 5, 3])])
def test_the_shift_tolerant_trunk_blurs_where_it_halves_and_tells_how_unlike_images_are(tmp_path, name, sides):
    weights = shift_tolerant(name)
    torch.save(weights, tmp_path / "weights.pth")
    trunk = ShiftTolerant(tmp_path / "weights.pth")
    images, others = pictures(0), pictures(1)
    assert [features.shape[2] for features in trunk(images)] == sides
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[:, :, None, None]
    first = F.conv2d((images - shift) / scale, weights["net.slice1.0.weight"], weights["net.slice1.0.bias"], padding=2)
    if name == "alex":
        padded = F.pad(first, (2, 2, 2, 2), mode="reflect")
        first = F.conv2d(padded, weights["net.slice1.1.filt"], stride=2, groups=4).relu()
        torch.testing.assert_close(trunk(images)[0], first)
    distance = trunk.distance(others, images)
    expected = torch.zeros(2)

    def unit(features):
        return features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)

    for depth, (one, other) in enumerate(zip(trunk(others), trunk(images), strict=True)):
        apart = (unit(one) - unit(other)).square()
        expected += (apart * weights[f"lin{depth}.model.1.weight"]).sum(1).mean((1, 2))
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(trunk.distance(images, images), torch.zeros(2))
    torch.save({"something": torch.ones(1)}, tmp_path / "else.pth")
    with pytest.raises(InputError, match=r"else.pth: has no key"):
        ShiftTolerant(tmp_path / "else.pth")


def test_weights_that_are_missing_or_do_not_fit_are_one_line_and_never_another_loss(vgg, tmp_path):
    with pytest.raises(InputError, match=r"nothing.pt: cannot be read"):
        Perceptual(weights=str(tmp_path / "nothing.pt"))
    other = {f"features.{key}": value[:1] for key, value in make_layers(cfgs["D"]).state_dict().items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"features.0.weight: of shape \(1, 3, 3, 3\), not \(64, 3, 3, 3\)"):
        Perceptual(weights=str(tmp_path / "other.safetensors"))
    torch.save({"something": torch.ones(1)}, tmp_path / "else.pt")
    with pytest.raises(InputError, match=r"features\.0\.weight: no such key"):
        Perceptual(weights=str(tmp_path / "else.pt"))
    with pytest.raises(InputError, match="give one of both"):
        Perceptual()
