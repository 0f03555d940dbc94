"""A Trainer without the command line: it logs the same, and takes anybody's DataLoader of (image, index)."""

import functools

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader, Dataset, IterableDataset

from glo_lightning import GLO, LSUNDataModule
from glo_lightning.errors import InputError
from glo_lightning.generator import Generator
from glo_lightning.images import to_uint8
from glo_lightning.training.callbacks import ReconstructionGrid

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's hints
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def glo(num_images, **arguments):
    generator = functools.partial(Generator, width=4)
    return GLO(num_images, latent_dim=4, image_size=16, generator=generator, **arguments)


class Numbered(Dataset):
    """40 images of four dimensions and their indices, from ``first`` on."""

    def __init__(self, first=0):
        self.first = first
        random = torch.Generator().manual_seed(0)
        coordinates = torch.randn(40, 4, generator=random) * torch.tensor([8.0, 4.0, 2.0, 1.0])
        images = coordinates @ torch.randn(4, 3 * 16 * 16, generator=random)
        self.images = (images / images.abs().max()).unflatten(1, (3, 16, 16))

    def __len__(self):
        return 40

    def __getitem__(self, row):
        return self.images[row], row + self.first


def test_it_logs_curves_pictures_and_hyperparameters(tmp_path):
    data = LSUNDataModule(num_samples=40, image_size=16, batch_size=20)
    best = ModelCheckpoint(monitor="train/loss_epoch")
    trainer = Trainer(max_epochs=2, default_root_dir=tmp_path, callbacks=[best], **QUIET)
    trainer.fit(glo(data.num_images), data)
    assert {"train/loss", "train/loss_epoch", "latents/moved"} <= trainer.callback_metrics.keys()
    assert best.best_model_score == trainer.callback_metrics["train/loss_epoch"]
    pictures = {file.name for file in (tmp_path / "lightning_logs" / "version_0" / "images").iterdir()}
    assert {"targets.png", "reconstructions_epoch_001.png", "samples_epoch_001.png"} <= pictures
    assert "latent_dim: 4" in (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()


def test_a_trainers_own_callback_replaces_the_models(tmp_path):
    own = ReconstructionGrid(num_images=2)
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[own], **QUIET)
    trainer.fit(glo(40, init="random"), DataLoader(Numbered(), batch_size=20))
    assert [callback for callback in trainer.callbacks if isinstance(callback, ReconstructionGrid)] == [own]


def test_without_a_logger_it_writes_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(glo(40, init="random"), DataLoader(Numbered(), batch_size=20))
    assert trainer.callback_metrics["train/loss_epoch"] > 0
    assert not list(tmp_path.iterdir())


def test_a_shuffled_dataloader_has_its_rows_pca(tmp_path):
    """Codes are the images' own PCA coordinates, whatever the order of training."""
    model = glo(40, init="pca", constraint="none", latent_lr=0)
    Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(
        model, DataLoader(Numbered(), batch_size=20, shuffle=True)
    )
    pixels = to_uint8(Numbered().images).flatten(1).double() / 127.5
    expected = torch.from_numpy(PCA(4, svd_solver="full").fit_transform(pixels.numpy()))
    codes = model.latents.weight.double()
    cosines = torch.nn.functional.cosine_similarity(codes - codes.mean(0), expected, dim=0)
    assert (cosines.abs() > 0.99).all()


class Stream(IterableDataset):
    def __iter__(self):
        return iter([Numbered()[row] for row in range(40)])


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Numbered(first=1), "have the indices [1, 2, 3]"),
        (Stream(), "a DataLoader with a batch_size whose dataset has a length"),
    ],
    ids=["other indices", "stream"],
)
def test_images_that_cannot_be_read_in_order_have_no_pca(tmp_path, dataset, message):
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False, **QUIET)
    with pytest.raises(InputError) as error:
        trainer.fit(glo(41, init="pca"), DataLoader(dataset, batch_size=20))
    assert message in str(error.value)
