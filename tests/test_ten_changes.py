"""Ten changes that a stranger makes, each in a few lines, without touching the package."""

import functools
import json

import numpy as np
import pytest
import torch
from conftest import TINY, curves, events, load
from pytorch_lightning import Callback, Trainer

from glo_lightning import GLO, Generator, LaplacianLoss, LSUNDataModule
from glo_lightning.explore.export import export_run
from glo_lightning.explore.exported import load_export
from glo_lightning.optimizers import RowSGD
from glo_lightning.priors.prior import make_prior, sample_codes

ONE = (*TINY, "--max_epochs=1")


class Charbonnier(torch.nn.Module):
    """1 and 2: a loss, with an argument."""

    def __init__(self, eps: float = 0.1):
        super().__init__()
        self.eps = eps

    def forward(self, generated, images):
        return ((generated - images).square() + self.eps**2).sqrt().mean()


def test_a_loss(run, tmp_path):
    flags = ("--model.loss=test_ten_changes.Charbonnier", "--model.loss.eps=0.5")
    assert run(*ONE, *flags, "--output", tmp_path / "a") == (0, "")
    assert GLO.load_from_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt").loss.eps == 0.5


class Linear(torch.nn.Module):
    """3: a generator, PCA's own kind."""

    def __init__(self, latent_dim: int, image_size: int, channels: int, bias: bool = False):
        super().__init__()
        self.shape = (channels, image_size, image_size)
        self.layer = torch.nn.Linear(latent_dim, channels * image_size**2, bias=bias)

    def forward(self, codes):
        return self.layer(codes).tanh().unflatten(1, self.shape)


def test_a_generator_that_is_also_exported(run, tmp_path):
    flags = ("--model.generator=test_ten_changes.Linear", "--model.generator.bias=true", "--data.image_size=24")
    tiny = [flag for flag in ONE if "width" not in flag]
    assert run(*tiny, *flags, "--output", tmp_path / "a") == (0, "")
    model = GLO.load_from_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt").eval()
    assert model.generator.layer.bias is not None
    export_run(tmp_path / "a", tmp_path / "exported")
    about = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert about["generator"] == {"class": "test_ten_changes.Linear", "needs": ["test_ten_changes", "torch"]}
    loaded, *_ = load_export(tmp_path / "exported", GLO)
    assert torch.equal(loaded.eval()(loaded.latents.weight), model(model.latents.weight))


class Bootstrap:
    """4: a prior that draws the codes themselves."""

    def fit(self, codes):
        self.codes = codes.detach().cpu()

    def sample(self, num, seed):
        return self.codes[torch.randint(len(self.codes), (num,), generator=torch.Generator().manual_seed(seed))]


def test_a_prior():
    codes, prior = torch.randn(9, 3), make_prior("test_ten_changes.Bootstrap")
    prior.fit(codes)
    drawn = sample_codes(prior, codes, 20, lambda codes: codes)
    assert (torch.cdist(drawn, codes).min(dim=1).values < 1e-5).all()


class Stripes:
    """5: a data source."""

    fingerprint = ("stripes", 1)

    def __len__(self):
        return 20

    def read(self, index):
        return (torch.arange(32) // (index % 5 + 1) % 2 * 255).byte().expand(3, 32, 32).contiguous()

    def key(self, index):
        return b"stripe %d" % index


class StripesDataModule(LSUNDataModule):
    @functools.cached_property
    def source(self):
        return Stripes()


def fit(model, data, tmp_path, *callbacks):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, enable_model_summary=False,
        callbacks=list(callbacks), **quiet,
    )  # fmt: skip
    trainer.fit(model, data)
    return trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("cache", [True, False])
def test_a_data_source(tmp_path, cache):
    data = StripesDataModule(image_size=32, batch_size=5, cache=cache)
    model = GLO(data.num_images, latent_dim=3, image_size=32, generator=functools.partial(Generator, width=2))
    fit(model, data, tmp_path)
    assert model.latents.weight.shape == (20, 3)
    same = torch.cdist(model.latents.weight, model.latents.weight) < 0.2  # rows of one image in five begin together
    assert same[torch.arange(20) % 5 == 0][:, ::5].all()


class SignSGD(RowSGD):
    """6: a rule for the rows."""

    def update_rows(self, table, gradient, lr):
        table[gradient._indices()[0]] -= lr * gradient._values().sign()


def test_a_rule_for_the_rows(run, tmp_path):
    flags = ("--model.latent_optimizer=test_ten_changes.SignSGD", "--model.latent_lr=0.01", "--model.constraint=none")
    assert run(*ONE, *flags, "--model.schedule=constant", "--output", tmp_path / "a") == (0, "")
    checkpoint = load(tmp_path / "a")
    moved = checkpoint["state_dict"]["latents.weight"] - checkpoint["initial_codes"]
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01), atol=1e-6, rtol=0)


class Montage(Callback):
    """7 and 8: a picture and a metric; 9: a flag, its argument."""

    def __init__(self, num_images: int = 4):
        self.num_images = num_images

    def on_train_epoch_end(self, trainer, pl_module):
        codes = pl_module.latents.weight.detach()[: self.num_images]
        pl_module.log("latents/largest", codes.norm(dim=1).max())
        with torch.no_grad():
            images = pl_module.generator(codes) / 2 + 0.5
        trainer.logger.experiment.add_image("montage", torch.cat(list(images), dim=2), trainer.global_step)


def test_a_picture_a_metric_and_a_flag(run, tmp_path):
    flags = ("--trainer.callbacks+=test_ten_changes.Montage", "--trainer.callbacks.num_images=3")
    assert run(*ONE, *flags, "--output", tmp_path / "a") == (0, "")
    largest = load(tmp_path / "a")["state_dict"]["latents.weight"][:3].norm(dim=1).max()
    assert curves(tmp_path / "a")["latents/largest"] == [(2, pytest.approx(float(largest)))]
    assert events(tmp_path / "a").Images("montage")[0].width == 3 * 32


def test_another_image_size(run, tmp_path):
    flags = ("--data.image_size=256", "--model.generator.width=1", "--data.num_samples=8", "--data.batch_size=4")
    assert run(*ONE, *flags, "--output", tmp_path / "a") == (0, "")
    model = GLO.load_from_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt").eval()
    assert model(model.latents.weight[:1]).shape == (1, 3, 256, 256)
    assert isinstance(model.generator, Generator)
    assert isinstance(model.loss, LaplacianLoss)
    assert np.isfinite(model.latents.weight.detach().numpy()).all()
