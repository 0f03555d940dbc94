"""Degraded pictures: the operators, least squares behind them, and images restored by encode.py."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import encode, flat_image
from PIL import Image
from programs import call
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional as F

from glo_lightning import load_run
from glo_lightning.encoding import nearest_images
from glo_lightning.errors import InputError
from glo_lightning.explore.operators import (
    Blur,
    Downsample,
    Mask,
    ToGray,
    make_operator,
)
from glo_lightning.explore.restoration import Restoration, enforce_consistency, least_squares

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Upside(nn.Module):
    """Turns images over: linear."""

    def forward(self, images):
        return images.flip(2)


class Columns(nn.Module):
    """Shows the first columns, each by a factor of its own, and black for the others."""

    def forward(self, images):
        return images * F.pad(torch.arange(1.0, 5.0), (1, images.shape[-1] - 5))


class Squares(nn.Module):
    def forward(self, images):
        return images**2


class Numbers(nn.Module):
    def forward(self, images):
        return images.mean((1, 2, 3))


def test_operators_are_what_they_are_called():
    reduced = np.asarray(Image.fromarray(((IMAGES[0, 0] + 1) * 127.5).numpy()).reduce(4)) / 127.5 - 1
    np.testing.assert_allclose(Downsample()(IMAGES)[0, 0], reduced, atol=1e-5)
    blurred = gaussian_filter(IMAGES[0, 0].double().numpy(), 1.5, mode="nearest", radius=4)
    np.testing.assert_allclose(Blur(1.5)(IMAGES)[0, 0], blurred, atol=1e-5)
    pixels = ((IMAGES[0] + 1) * 127.5).round().byte()
    grey = np.asarray(Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("L")) / 127.5 - 1
    np.testing.assert_allclose(ToGray()(pixels[None] / 127.5 - 1)[0, 0], grey, atol=1 / 127)
    assert torch.equal(ToGray()(IMAGES[:, :1]), IMAGES[:, :1])
    mask = torch.zeros(1, 16, 16)
    mask[:, :4] = 1
    assert torch.equal(Mask(mask)(IMAGES)[:, :, :4], IMAGES[:, :, :4])
    assert not Mask(mask)(IMAGES)[:, :, 4:].any()


@pytest.mark.parametrize("name", ["down4", "blur", "grey", "test_operators.Upside", "test_operators.Columns"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_restored_image_is_the_nearest_that_agrees_with_its_picture(name, channels):
    """Compared with the least squares of NumPy; a blur's are met step by step."""
    operator = make_operator(name, 16, channels)
    images, generated = IMAGES[:, :channels], IMAGES.flip(0)[:, :channels]
    pictures = operator(images)
    whole = enforce_consistency(generated, pictures, operator)
    before = (operator(generated) - pictures).square().mean()
    assert (operator(whole) - pictures).square().mean() < (0.01 if name == "blur" else 1e-9) * before
    units = torch.eye(channels * 256).view(-1, channels, 16, 16)
    matrix = operator(units).flatten(1).T.double().numpy()
    lacking = (pictures - operator(generated)).flatten(1).T.double().numpy()
    nearest = generated.flatten(1).numpy() + np.linalg.lstsq(matrix, lacking, rcond=None)[0].T
    if name != "blur":
        np.testing.assert_allclose(whole.flatten(1), nearest, atol=1e-5)


def test_what_no_image_agrees_with_is_met_as_closely_as_one_can():
    """A picture with light where the operator shows nothing."""
    operator, pictures = Columns(), torch.ones(1, 3, 16, 16)
    whole = enforce_consistency(IMAGES[:1], pictures, operator)
    np.testing.assert_allclose(whole[..., 1:4], torch.tensor([1.0, 1 / 2, 1 / 3]).expand(1, 3, 16, 3), atol=1e-5)
    assert torch.equal(whole[..., 5:], IMAGES[:1, ..., 5:])


def test_arguments_and_classes_of_ones_own():
    assert make_operator("blur", 16, 3, {"sigma": 1.0}).kernel.shape == (7,)
    assert make_operator("blur", 16, 3, {"sigma": 1.0, "size": 5}).kernel.shape == (5,)
    assert make_operator("glo_lightning.explore.operators.Downsample", 16, 3, {"factor": 2})(IMAGES).shape[-1] == 8
    assert torch.equal(make_operator("test_operators.Upside", 16, 3)(IMAGES), IMAGES.flip(2))


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("median", None, "there is no such class.*Give mask, down4"),
        ("torch.nn.Module.forward", None, "there is no such class.*Give mask, down4"),
        ("test_operators.Squares", None, "is not linear"),
        ("test_operators.Numbers", None, r"makes \(1,\) of an image"),
        ("torch.nn.Bilinear", {"in1_features": 1, "in2_features": 1, "out_features": 1}, "does not take images"),
        ("torch.nn.ReLU", None, "is not linear"),
        ("blur", {"radius": 3}, "cannot be made with its arguments"),
        ("blur", {"size": 4}, "size 4: of a blur's kernel must be odd"),
        ("blur", {"sigma": 0}, "sigma 0: must be more than 0"),
        (
            "blur",
            {"sigma": "a"},
            r"operator .*Blur: cannot be made .*\(TypeError at operators.py:\d+: ",
        ),
        ("mask", None, "takes a file"),
        ("mask", {"file": None}, "takes a file"),
        ("mask", {"file": "nowhere.png"}, "cannot be read"),
    ],
)
def test_what_is_no_operator_is_named(name, arguments, told):
    with pytest.raises(InputError, match=told):
        make_operator(name, 16, 3, arguments)


def test_least_squares_are_those_of_a_gaussian_among_the_principal_components():
    """Compared with the conditional mean of the joint Gaussian of coordinates and pictures, in NumPy."""
    random = np.random.default_rng(0)
    flat = random.normal(size=(300, 5)) * [40, 30, 20, 10, 5] @ np.linalg.qr(random.normal(size=(192, 5)))[0].T
    pixels = np.clip(127 + flat + random.normal(size=flat.shape), 0, 255).astype(np.uint8)
    training = torch.from_numpy(pixels).view(300, 3, 8, 8)
    rows = pixels / 127.5 - 1
    pca = PCA(5, svd_solver="full").fit(rows)
    mask = torch.from_numpy(random.random((1, 8, 8)) < 0.2).float()
    operator = Mask(mask)
    pictures = operator(torch.from_numpy(rows[:4]).float().view(4, 3, 8, 8))
    seen = np.diag(mask.expand(3, 8, 8).flatten().numpy())
    coordinates = pca.transform(rows)
    axes = pca.components_ @ seen
    left = (((rows - pca.mean_) @ seen - coordinates @ axes) ** 2).mean()
    covariance = np.diag(coordinates.var(0))
    gain = covariance @ axes @ np.linalg.inv(axes.T @ covariance @ axes + left * np.eye(192))
    expected = pca.mean_ + (pictures.flatten(1).numpy() - pca.mean_ @ seen) @ gain.T @ pca.components_
    for whiten in (False, True):
        _, images = least_squares(training, pictures, operator, 5, whiten)
        np.testing.assert_allclose(images.flatten(1), expected, atol=0.01)


def test_the_nearest_behind_a_mask_is_so_in_known_pixels_alone():
    training = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    training[0, :, :, :4], training[1, :, :, 4:] = 255, 255
    image = torch.full((1, 3, 8, 8), 1.0)  # both alike, but for what is known of it
    for known, nearest in ((slice(0, 4), 0), (slice(4, 8), 1)):
        operator = Mask(torch.zeros(1, 8, 8))
        operator.mask[..., known] = 1
        assert nearest_images(training, operator(image), operator).tolist() == [nearest]


@pytest.fixture
def encode_py(tmp_path, tiny_run):
    """encode_py("--flag", ...) -> (the output folder, or the last line on stderr)."""

    def encode_py(*arguments):
        output = tmp_path / "out"
        shutil.rmtree(output, ignore_errors=True)
        status, _, errors = call("encode", tiny_run, *arguments, "--output", output)
        return errors[-1] if status else output

    return encode_py


@pytest.fixture
def photo(tmp_path):
    def photo(size):
        path = tmp_path / f"photo-{size}.png"
        path.write_bytes(encode(flat_image(77, size)))
        return path

    return photo


@pytest.mark.parametrize("arguments", ["down4", "grey", 'blur --operator_args {"sigma":1}'])
def test_encode_restores_behind_an_operator(encode_py, photo, arguments):
    size = 8 if arguments == "down4" else 32
    output = encode_py(photo(size), "--operator", *arguments.split(), "--steps", 5)
    pictures = {f"{name}.png" for name in ("comparison", "reconstructions", "restored", "targets")}
    assert {path.name for path in output.glob("[!.]*")} == pictures | {"codes.npy", "codes.npy.json", "metrics.json"}
    assert np.load(output / "codes.npy").shape == (1, 6)
    assert json.loads((output / "metrics.json").read_text())["psnr"] > 0


def test_a_mask_is_an_operator_with_a_file(encode_py, photo, tmp_path):
    mask = np.full((32, 32), 255, np.uint8)
    mask[4:20, 3:] = 0
    (tmp_path / "mask.png").write_bytes(encode(mask))
    as_json = json.dumps({"file": str(tmp_path / "mask.png")})
    short = np.load(encode_py(photo(32), "--mask", tmp_path / "mask.png", "--steps", 5) / "codes.npy")
    long = encode_py(photo(32), "--operator", "mask", "--operator_args", as_json, "--steps", 5)
    assert np.array_equal(np.load(long / "codes.npy"), short)


def test_a_picture_of_another_size_is_named(encode_py, photo):
    for size, operator, wanted in ((32, "down4", 8), (8, "blur", 32), (40, "grey", 32)):
        line = encode_py(photo(size), "--operator", operator)
        assert line.startswith(f"images {photo(size)}: is of {size}x{size} pixels")
        assert f"makes {wanted}x{wanted}" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prior_weight", 1], "--prior_weight 1.0: has no effect without --operator. Leave it out."),
        (["--operator", "blur", "--prior_weight", "inf"], "--prior_weight inf: must be from 0 to 1000000.0"),
        (["--operator", "blur", "--noise_sigma", "1e30"], "--noise_sigma 1e+30: must be more than 0, and at most 10"),
        (["--operator", "blur", "--operator_args", '{"sigma": 1e12}'], "sigma 1000000000000.0: must be more than 0"),
        (["--steps", 0, "--loss", "l2"], "--loss l2: has no effect with --steps 0, which takes the encoder's codes"),
        (["--steps", 0, "--starts", "mean"], "--starts mean: has no effect with --steps 0"),
        (["--operator_args", "{}"], "--operator_args {}: has no effect without --operator"),
        (["--operator", "blur", "--noise_sigma", 0], "--noise_sigma 0.0: must be more"),
        (["--operator", "blur", "--mask", "m.png"], "--mask m.png: is an operator itself"),
        (["--operator_args", "{}", "--operator", "none.Such"], "--operator none.Such: there is no such class"),
        (["--operator_args", "sigma"], "argument --operator_args: invalid"),
        (["--operator", "blur", "--prior_weight", 1], "--prior_weight 1.0: 16 codes are too few for a flow"),
        (["--operator", "blur", "--prior_weight", 1, "--steps", 0], "--steps 0: needs an encoder"),
        (["--noise_sigma", 0.1], "--noise_sigma 0.1: has no effect without --operator"),
    ],
)
def test_what_does_not_go_together_is_one_line(encode_py, photo, arguments, told):
    assert told in encode_py(photo(32), *arguments)


class Near:
    """A density around one code."""

    def log_density(self, codes, probes, steps):
        return -1e3 * (codes - 0.2).square().sum(1)


def test_the_prior_draws_codes_to_where_it_is_dense(tiny_run, monkeypatch):
    loaded = load_run(tiny_run, "cpu")
    monkeypatch.setattr("glo_lightning.explore.restoration.fitted_flow", lambda *_: Near())
    pictures = Downsample(8)(IMAGES[:, :, :8, :8].repeat(1, 1, 4, 4))
    found = [
        Restoration(loaded, Downsample(8), None, weight, sigma).find_codes(pictures, ["random"], 30)
        for weight, sigma in ((0, 0.05), (1, 0.05), (1, 0.5))
    ]
    plain, drawn, more = (Near().log_density(codes, 1, 1) for codes in found)
    assert (more > drawn).all()
    assert (drawn > plain).all()
