"""Grey images, from the files to the pictures of a run: every part once with one channel."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import encode, flat_image, load, train
from image_sets import write_folder, write_mnist
from PIL import Image
from programs import call
from torch import nn

from glo_lightning import GLO, Generator, LaplacianLoss, LSUNDataModule, load_run
from glo_lightning.data.sources.arrays import ArraySource
from glo_lightning.data.store import CachedDataset
from glo_lightning.errors import InputError
from glo_lightning.explore.metrics import quality
from glo_lightning.images import ImageFormat, decode_image, from_uint8
from glo_lightning.pca import fit_pca, max_pca_images

RANDOM = np.random.default_rng(0)


def test_grey_is_pillows_and_a_grey_image_stays_as_it_is():
    pixels = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(decode_image(encode(pixels), ImageFormat(32, channels=1))[0], expected)
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode_image(encode(greys), ImageFormat(16, channels=1))[0], greys)
    assert np.array_equal(decode_image(torch.from_numpy(greys)[None], ImageFormat(16, channels=1))[0], greys)
    assert (decode_image(torch.from_numpy(greys)[None], ImageFormat(16)) == torch.from_numpy(greys)).all()


def test_crop_none_resizes_all_of_an_image():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 40:] = 255  # the right third
    whole = decode_image(encode(pixels), ImageFormat(30, crop="none"))[0]
    assert (whole[:, :18] == 0).all()
    assert (whole[:, 22:] == 255).all()
    assert (decode_image(encode(pixels), ImageFormat(20))[0, :, :18] == 0).all()


def test_auto_channels_are_the_sources_and_others_are_made(tmp_path):
    write_mnist(tmp_path)
    folder = write_folder(tmp_path / "photos", ["a.png", "b.png"])
    for root, channels, expected in ((tmp_path, "auto", 1), (folder, "auto", 3), (tmp_path, 3, 3), (folder, 1, 1)):
        data = LSUNDataModule(root, image_size=32, channels=channels)
        assert data.num_channels == data.dataset.images.shape[1] == data.dataset[0][0].shape[0] == expected
    assert LSUNDataModule(folder, image_size=32, channels=1, cache=False).dataset[[0, 1]][0].shape == (2, 1, 32, 32)


def test_other_channels_and_crops_are_cached_apart():
    source = ArraySource(RANDOM.integers(0, 256, (3, 8, 12, 3), np.uint8))
    made = [(3, "center"), (1, "center"), (3, "none"), (1, "none")]
    datasets = [CachedDataset(source, ImageFormat(8, *kind)) for kind in made]
    assert len({dataset.file for dataset in datasets}) == 4
    for dataset, kind in zip(datasets, made, strict=True):
        assert torch.equal(dataset.images[1], decode_image(source.read(1), ImageFormat(8, *kind)))


def test_pca_losses_and_metrics_take_one_channel():
    images = torch.from_numpy(RANDOM.integers(0, 256, (40, 1, 16, 16), np.uint8))
    codes = fit_pca(images, 5).codes(from_uint8(images))
    rows = from_uint8(images).flatten(1)
    left, singular, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    torch.testing.assert_close(codes.abs(), (left * singular)[:, :5].abs(), atol=1e-3, rtol=1e-3)
    grey, same = from_uint8(images), from_uint8(images.expand(-1, 3, -1, -1))
    blurred = grey.roll(1, 3)
    loss = LaplacianLoss()
    torch.testing.assert_close(loss(blurred, grey), loss(blurred.expand(-1, 3, -1, -1), same))
    assert quality(blurred, grey, loss) == pytest.approx(quality(blurred.expand(-1, 3, -1, -1), same, loss), rel=1e-4)
    assert fit_pca(images, 39).reconstruct(grey).sub(grey).abs().max() < 1e-3


def test_a_pca_of_large_images_is_fitted_on_as_many_as_memory_holds(caplog, monkeypatch):
    assert [max_pca_images(24_576, 3 * size**2) for size in (32, 64, 128, 256)] == [24_576, 24_576, 24_576, 6_144]
    monkeypatch.setattr("glo_lightning.pca.MAX_PCA_ELEMENTS", 20 * 3 * 256**2)
    large = {"image_size": 256, "generator": partial(Generator, width=1)}
    with caplog.at_level("INFO", "glo_lightning"):
        assert GLO(100, latent_dim=20, **large).n_pca == 20
    assert "the PCA is fitted on 20 images, not n_pca 24576" in caplog.text
    with pytest.raises(InputError, match="a PCA of 20 images"):
        GLO(100, latent_dim=21, **large)


class OnlyColour(nn.Linear):
    """A generator that heeds no ``channels``."""

    def __init__(self, latent_dim, image_size, channels):
        super().__init__(latent_dim, 3 * image_size**2)
        self.image_size = image_size

    def forward(self, codes):
        return super().forward(codes).view(-1, 3, self.image_size, self.image_size)


def test_a_generator_of_colour_is_refused_for_grey_alone():
    flags = {"latent_dim": 2, "image_size": 8, "generator": OnlyColour, "init": "random"}
    assert GLO(4, **flags)(torch.zeros(1, 2)).shape == (1, 3, 8, 8)
    with pytest.raises(InputError, match=r"makes \(2, 3, 8, 8\) from two codes. Give one that makes \(2, 1, 8, 8\)"):
        GLO(4, **flags, channels=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on grey digits, of one split, with another held out."""
    folder = tmp_path_factory.mktemp("grey")
    write_mnist(folder / "mnist")
    flags = ("--data.num_samples=null", "--max_epochs=1", "--prior=null", "--data.holdout_split=test")
    return train(folder / "run", *flags, "--data.root", folder / "mnist")


def test_a_grey_run_keeps_its_channels_and_is_not_resumed_with_others(trained, run):
    assert load(trained)["hyper_parameters"]["channels"] == 1
    assert yaml.safe_load((trained / "config.yaml").read_text())["data"]["channels"] == "auto"
    assert GLO.load_from_checkpoint(trained / "checkpoints" / "last.ckpt")(torch.zeros(2, 6)).shape == (2, 1, 32, 32)
    with Image.open(trained / "images" / "targets.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels[..., :1] == pixels).all()
    status, line = run("--resume", trained, "--max_epochs=2", "--data.channels=3")
    assert (status, line.split(";")[0]) == (2, "--data.channels 3: the checkpoint was made with 1")
    assert load(trained)["epoch"] == 0


SCRIPTS = ["sample --prior gaussian --num 3", "interpolate 1 2 --path line --animation made.webp", "walk --axes 2"]
SCRIPTS += ["arithmetic --a 1 --b 2 --c class=3", "projector --num 9", "encode photo.png --steps 2"]
SCRIPTS += ["evaluate --steps 2 --starts mean --num 5 --features test_metrics.Means"]


@pytest.mark.parametrize("command", SCRIPTS)
def test_every_command_takes_a_grey_run(trained, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(encode(flat_image(9)))
    name, *arguments = command.split()
    output = "--json=made.json" if name == "evaluate" else "--output=made"
    status, _, errors = call(name, trained, *arguments, "--accelerator=cpu", output)
    assert status == 0, errors
    assert any(Path().glob("made*"))
    if name == "evaluate":
        results = json.loads(Path("made.json").read_text())
        assert results["holdout"]["images"] == 5
        assert set(results["neighbours"]["pixels"]) == {"images", "class"}


def test_an_export_of_a_grey_run_says_so_and_has_its_labels(trained, tmp_path):
    torch_file = pytest.importorskip("safetensors.torch", reason="needs the extra export")
    from glo_lightning.explore.export import export_run
    from glo_lightning.explore.exported import load_export

    export_run(trained, tmp_path / "export")
    model, keys, _ = load_export(tmp_path / "export", GLO)
    about = json.loads((tmp_path / "export" / "config.json").read_text())
    assert model(torch.zeros(1, 6)).shape == (1, 1, 32, 32)
    assert (len(keys), about["preprocessing"]["colour"].split()[0]) == (30, "grey")
    table, values = torch_file.load_file(tmp_path / "export" / "codes.safetensors")["labels"], about["labels"]["class"]
    source = load_run(trained, "cpu").data.source
    assert [values[number] for number in table[:, 0].tolist()] == [source.labels(row)["class"] for row in range(30)]


@pytest.mark.parametrize(("size", "channels"), [(64, 1), (128, 3)])
def test_every_size_trains(run, size, channels, tmp_path):
    flags = (f"--data.image_size={size}", f"--data.channels={channels}", "--data.num_samples=6", "--data.batch_size=3")
    flags += ("--model.generator.width=1", "--model.latent_dim=3", "--max_epochs=1", "--accelerator=cpu")
    assert run(*flags, "--enable_progress_bar=false", "--output", tmp_path / "a") == (0, "")
    assert load(tmp_path / "a")["hyper_parameters"]["image_size"] == size
    with Image.open(tmp_path / "a" / "images" / "targets.png") as picture:
        assert picture.height == size + 4
