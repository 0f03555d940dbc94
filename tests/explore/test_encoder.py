"""An encoder: what it learns, where it is kept, and when it is used."""

import itertools
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, load
from programs import call, train
from torch import nn

from glo_lightning import GLO, load_run
from glo_lightning.data.image_files import read_images
from glo_lightning.encoding import TRIAL_STEPS, WARM_START_BETAS
from glo_lightning.errors import InputError
from glo_lightning.explore import encoder as encoder_module
from glo_lightning.explore.codes import codes_by_name, encode_images
from glo_lightning.explore.encoder import RIDGE, Encoder, encoder_file, fit_and_save_encoder, fit_encoder, load_encoder
from glo_lightning.explore.operators import Downsample
from glo_lightning.explore.restoration import Restoration
from glo_lightning.generator import Generator
from glo_lightning.images import to_uint8

pytest.importorskip("safetensors.torch", reason="needs the extra export")


def small_model(channels=3, image_size=32):
    """A model and its images: what it generates of its codes, after BatchNorm has seen them."""
    torch.manual_seed(0)
    model = GLO(40, 6, image_size, channels, partial(Generator, width=4), init="random")
    for layer in model.generator.layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    model.generator(model.latents.weight)
    model = model.eval().requires_grad_(False)
    images = to_uint8(model(model.latents.weight))
    return model, lambda rows: images[rows]


class Flat(nn.Module):
    """Stands for a model, of any size: images of one colour, the mean of a code that is left as it is."""

    def __init__(self, channels, size):
        super().__init__()
        self.shape = (channels, size, size)

    def forward(self, codes):
        return codes.mean(dim=1)[:, None, None, None].expand(-1, *self.shape)

    def project(self, codes):
        return codes


@pytest.mark.parametrize(("size", "channels"), [(8, 3), (32, 1), (64, 3), (128, 3), (256, 1), (48, 3)])
def test_images_of_every_size_have_codes(size, channels):
    encoder = Encoder(channels, size, 5)
    images = torch.zeros(2, channels, size, size)
    assert encoder(images, Flat(channels, size)).shape == (2, 5)


def test_the_first_map_is_ridge_regression():
    model, read = small_model()
    codes = model.latents.weight.double().numpy()
    encoder = fit_encoder(model, read)
    seen = (read(list(range(40))).flatten(1).double() / 127.5 - 1).numpy()
    centred = seen - seen.mean(0)
    gram = centred.T @ centred
    np.fill_diagonal(gram, gram.diagonal() + RIDGE * gram.diagonal().mean())
    expected = centred @ np.linalg.solve(gram, centred.T @ (codes - codes.mean(0))) + codes.mean(0)
    np.testing.assert_allclose(encoder.first(torch.from_numpy(seen).float()).numpy(), expected, atol=2e-3)


def test_one_step_finds_the_codes_that_a_linear_generator_made_images_of():
    """Whose pixels cancel in fours, so that the first map, which sees their means, knows nothing."""
    model, _ = small_model(image_size=64)
    checks = 1 - 2 * ((torch.arange(64)[:, None] + torch.arange(64)) % 2)
    patterns = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, 2)
    patterns = (patterns.repeat_interleave(2, 3) * checks).flatten(1) / 10
    model.generator = nn.Sequential(nn.Linear(6, len(patterns[0]), bias=False), nn.Unflatten(1, (3, 64, 64)))
    model.generator[0].weight.data = patterns.T.contiguous()
    model.requires_grad_(False)
    images = to_uint8(model(model.latents.weight))
    encoder = fit_encoder(model, lambda rows: images[rows])
    codes = model.project(0.4 * torch.randn(20, 6, generator=torch.Generator().manual_seed(2)))
    first = model.project(encoder.first(encoder.pixels(model(codes))))
    assert float((first - codes).norm()) > 0.5 * float(codes.norm())
    torch.testing.assert_close(encoder(model(codes), model), codes, atol=0.01, rtol=0)


@pytest.mark.parametrize(("num", "latent_dim"), [(1, 3), (5, 6), (40, 1)])
def test_few_images_or_dimensions_will_do(num, latent_dim):
    model = GLO(num, latent_dim, 32, generator=partial(Generator, width=4), init="random").eval().requires_grad_(False)
    images = torch.randint(0, 256, (num, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    encoder = fit_encoder(model, lambda rows: images[rows])
    assert encoder(torch.rand(2, 3, 32, 32), model).isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_fit_repeats_and_leaves_all_else_as_it_is(channels):
    model, read = small_model(channels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    one, two = (fit_encoder(model, read).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_fit_ends_in_time(monkeypatch):
    model, read = small_model()
    clock = itertools.count()
    monkeypatch.setattr(encoder_module.time, "monotonic", lambda: 10.0 * next(clock))
    asked = []
    fit_encoder(model, lambda rows: asked.append(rows) or read(rows), max_seconds=20)
    assert [len(rows) for rows in asked] == [32, 32]  # each map's first batch, at 10 s and 20 s; there are two


@pytest.fixture(scope="module")
def mirrored_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("mirrored") / "run", "--data.flip=true")


@pytest.fixture
def run(mirrored_run, tmp_path):
    """A copy of a run with mirror images."""
    return Path(shutil.copytree(mirrored_run, tmp_path / "run"))


@pytest.fixture
def encode_py(tmp_path):
    """encode_py(run, "--flag", ...) -> (codes or None, last line on stderr)."""

    def encode_py(run, *arguments):
        output = tmp_path / "out"
        shutil.rmtree(output, ignore_errors=True)
        flags = () if arguments == ("--fit_encoder",) else ("--output", output)
        status, _, errors = call("encode", run, *arguments, *flags)
        codes = torch.from_numpy(np.load(output / "codes.npy")) if output.exists() else None
        return codes, errors[-1] if status else ""

    return encode_py


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(flat_image(77, 40)))
    return tmp_path / "photo.png"


def test_an_encoder_is_kept_and_used_from_then_on(run, encode_py, photo):
    before, _ = encode_py(run, photo, "--steps", 40)
    assert encode_py(run, photo, "--steps", 0)[1].startswith("--steps 0: needs an encoder")
    assert encode_py(run, "--fit_encoder") == (None, "")
    loaded = load_run(run, "cpu")
    encoder, pixels = load_encoder(loaded), read_images([photo], loaded.data.image_format)[0]
    with torch.no_grad():
        code = encoder(pixels / 127.5 - 1, loaded.model)
    assert torch.equal(encode_py(run, photo, "--steps", 0)[0], code)
    assert torch.equal(encode_py(run, photo, "--steps", 40, "--encoder", "none")[0], before)
    found = encode_images(loaded, pixels, encoder, steps=TRIAL_STEPS)
    assert torch.equal(encode_py(run, photo)[0], found)  # the default
    assert torch.equal(codes_by_name(loaded, [str(photo)]), found)


def test_flags_that_an_encoder_leaves_without_effect_are_refused(run, encode_py, photo):
    assert encode_py(run, "--fit_encoder", "--steps", 3)[1].startswith("--steps 3: has no effect without IMAGES")
    assert encode_py(run, "--fit_encoder") == (None, "")
    starts = encode_py(run, photo, "--steps", TRIAL_STEPS, "--starts", "mean")[1]
    assert starts.startswith("--starts mean: has no effect with an encoder and at most 30 steps")
    assert encode_py(run, photo, "--steps", TRIAL_STEPS + 1, "--starts", "mean")[1] == ""


def test_few_steps_start_from_the_encoders_answer_and_need_no_training_images(photo):
    model, read = small_model()
    encoder, pixels = fit_encoder(model, read), read([3])
    few, code = (encode_images(SimpleNamespace(model=model), pixels, encoder, steps=steps) for steps in (3, 0))
    assert torch.equal(few, model.encode(pixels / 127.5 - 1, starts=code[:, None], steps=3, betas=WARM_START_BETAS))


def test_a_code_does_not_depend_on_the_other_images():
    model, read = small_model()
    encoder, images = fit_encoder(model, read), read(list(range(0, 40, 8))) / 127.5 - 1
    assert torch.equal(encoder.encode(images, model)[2:3], encoder.encode(images[2:3], model))


@pytest.mark.parametrize("part", ["latents.weight", "generator.layers.0.weight"])
def test_an_encoder_of_another_checkpoint_is_not_used_and_one_line_says_so(run, encode_py, photo, part, caplog):
    loaded = load_run(run, "cpu")
    fit_and_save_encoder(loaded)
    content = encoder_file(loaded).read_bytes()
    state = load(run)
    state["state_dict"][part][3] *= 0.5
    other = run / "checkpoints" / "best.ckpt"
    torch.save(state, other)
    assert load_encoder(load_run(other, "cpu")) is None
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert line.startswith(f"{encoder_file(loaded)} was fitted to another checkpoint and is not used. Fit one")
    assert encode_py(other, photo, "--steps", 0)[1].startswith("--steps 0: needs an encoder")
    assert encoder_file(loaded).read_bytes() == content
    assert encode_py(other, "--fit_encoder") == (None, "")
    assert encode_py(other, photo, "--steps", 0)[0] is not None


def test_an_encoder_that_is_not_there_or_damaged_is_named(run, encode_py, photo):
    assert load_encoder(load_run(run, "cpu")) is None
    (run / "encoder.safetensors").write_bytes(b"nothing")
    assert f"encoder {run / 'encoder.safetensors'}: cannot be read" in encode_py(run, photo)[1]
    assert encode_py(run, photo, "--encoder", "none", "--steps", 3)[0] is not None
    assert encode_py(run)[1].startswith("images : there are none")


def test_a_disk_that_does_not_take_it_leaves_no_part_of_an_encoder(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    loaded = load_run(run, "cpu")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"encoder\.safetensors: cannot be written \(No space left"):
        fit_and_save_encoder(loaded)
    assert not list(run.glob("*encoder*"))


def test_nothing_is_fitted_for_a_folder_that_takes_no_file_or_before_what_else_is_wrong(run, encode_py, monkeypatch):
    fits = []
    monkeypatch.setattr("glo_lightning.explore.encoder.fit_encoder", lambda *_: fits.append(1))
    assert "--operator none.Such" in encode_py(run, run, "--fit_encoder", "--operator", "none.Such")[1]
    assert "nowhere.png" in encode_py(run, "nowhere.png", "--fit_encoder")[1]
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be written, its folder is read-only" in encode_py(run, "--fit_encoder")[1]
    assert not fits


def test_a_prior_weighs_steps_alone(run):
    restoration = Restoration(load_run(run, "cpu"), Downsample(4), Encoder(3, 32, 6), prior_weight=1.0)
    with pytest.raises(InputError, match=r"prior_weight 1.0: weighs steps of a descent"):
        restoration.find_codes(torch.zeros(1, 3, 8, 8), steps=0)


def test_evaluation_does_not_use_it(run, tmp_path):
    """It was fitted to the training images, which are compared with others."""
    files = [tmp_path / "before.json", tmp_path / "after.json"]
    for file in files:
        call("evaluate", run, "--steps", 2, "--num", 4, "--starts", "mean", "--json", file)
        fit_and_save_encoder(load_run(run, "cpu"))
    before, after = (json.loads(file.read_text()) for file in files)
    assert before == after
