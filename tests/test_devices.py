"""Nothing mixes devices: what trains, encodes, samples and measures, on a device that only pretends to be another."""

from functools import partial

import pytest
import torch
from conftest import flat_image, train
from elsewhere import DEVICE, Elsewhere
from PIL import Image
from programs import call
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy

from glo_lightning import GLO, LSUNDataModule, encoding
from glo_lightning.explore.codes import generate
from glo_lightning.explore.encoder import fit_encoder
from glo_lightning.explore.flows import flow_path
from glo_lightning.explore.metrics import neighbours_kept, quality
from glo_lightning.explore.neighbours import nearest
from glo_lightning.explore.path_metrics import interpolation_metrics
from glo_lightning.explore.paths import lerp, principal_axes, slerp, walk
from glo_lightning.generator import Generator
from glo_lightning.images import from_uint8
from glo_lightning.losses import LaplacianLoss, find_loss, make_loss
from glo_lightning.optimizers import WhitenedRows
from glo_lightning.pca import fit_pca
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.gaussian import Diagonal, Gaussian, Mixture
from glo_lightning.priors.prior import sample_codes
from glo_lightning.runs.checkpoints import Checkpoints
from glo_lightning.training.callbacks import Curves, ReconstructionGrid, SampleGrid, Throughput
from glo_lightning.training.finite_loss import FiniteLoss
from glo_lightning.training.reports import Bar

SMALL_FLOW = {"steps": 4, "width": 8, "blocks": 1}


class Pretend(CPUAccelerator):
    def setup_device(self, device):
        assert device == DEVICE


class IsThere(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert {part.device for part in (*batch, outputs["loss"], *pl_module.parameters())} == {DEVICE}


@pytest.fixture(autouse=True)
def few_codes_and_steps_at_once(monkeypatch):
    monkeypatch.setattr(encoding, "ACCELERATOR_CHUNK", 4)
    monkeypatch.setattr(encoding, "TRIAL_STEPS", 2)


@pytest.fixture
def elsewhere():
    with Elsewhere() as mode:
        yield mode


def test_the_pretended_device_refuses_what_a_real_one_does(elsewhere):
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    assert there.device == (there[1:] * 2).device == here.to(DEVICE).device == DEVICE
    assert here.device == there.cpu().device == torch.device("cpu")
    with pytest.raises(RuntimeError, match="mixes devices"):
        there + here
    with pytest.raises(RuntimeError, match="mixes devices"):
        torch.nn.Linear(3, 2).to(DEVICE)(here)
    there += 1.0
    assert (there * torch.tensor(2.0)).tolist() == [4, 4, 4]  # a number may come from anywhere


def small(num_images, **arguments):
    torch.manual_seed(0)
    return GLO(num_images, latent_dim=6, image_size=32, generator=partial(Generator, width=4), **arguments)


@pytest.mark.parametrize(
    ("on_loss", "arguments"),
    [
        ("raise", {"whiten": True, "loss": partial(LaplacianLoss, l2_weight=1.0), "schedule": "cosine"}),
        ("skip", {"init": "random", "constraint": "sphere", "latent_optimizer": WhitenedRows, "latent_lr": 1.0}),
        ("raise", {"loss": torch.nn.MSELoss, "constraint": "none", "latent_lr": 0.0, "optimizer": torch.optim.AdamW}),
    ],
    ids=["whitened PCA", "random, whitened steps", "l2, frozen, AdamW"],
)
def test_a_run(elsewhere, flat_lmdb, tmp_path, on_loss, arguments):
    data = LSUNDataModule(str(flat_lmdb), num_samples=20, holdout=4, image_size=32, batch_size=8)
    callbacks = [Curves(), Throughput(), FiniteLoss(on_loss), ReconstructionGrid(), SampleGrid(), Bar()]
    callbacks += [Checkpoints(), IsThere()]
    strategy = SingleDeviceStrategy(device=DEVICE, accelerator=Pretend())
    options = {"default_root_dir": tmp_path, "logger": False, "max_epochs": 1, "enable_model_summary": False}
    trainer = Trainer(strategy=strategy, callbacks=callbacks, log_every_n_steps=2, num_sanity_val_steps=0, **options)
    model = small(16, **arguments)
    trainer.fit(model, data)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    again = tmp_path / "again"
    options |= {"default_root_dir": again, "max_epochs": 2, "callbacks": [Curves(), FiniteLoss(), Checkpoints()]}
    resumed = Trainer(strategy=SingleDeviceStrategy(device=DEVICE, accelerator=Pretend()), **options)
    resumed.fit(small(16, **arguments), data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert resumed.global_step == 4


COMMANDS = {
    "encode": ["{image}", "--loss=LaplacianLoss", "--steps=2"],
    "encode.py, a mask": ["{image}", "--mask={mask}", "--steps=2"],
    "encode.py, blurred": ["{image}", "--operator=blur", "--steps=2"],
    "encode.py, smaller": ["{small}", "--operator=down4", "--steps=2"],
    "encode.py, grey": ["{image}", "--operator=grey", "--steps=2"],
    "evaluate": ["--loss=LaplacianLoss", "--steps=2", "--num=4", "--features=test_devices.Features"],
    "sample": ["--num=4", "--prior=gaussian"],
    "interpolate": ["0", "{image}", "--path=arc"],
    "walk": ["--path=line"],
    "arithmetic": ["--a", "0", "--b", "1", "--c", "2", "--path=line"],
    "projector": [],
}


class Features(torch.nn.Module):
    def forward(self, images):
        return images.float().mean((2, 3))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained") / "run", "--data.holdout=8", "--max_epochs=1", "--prior=null")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(name, run_folder, tmp_path, monkeypatch):
    files = {"image": tmp_path / "image.png", "small": tmp_path / "small.png"}
    for file, size in zip(files.values(), (32, 8), strict=True):
        Image.fromarray(flat_image(200, size)).save(file)
    files["mask"] = tmp_path / "mask.png"
    Image.new("L", (32, 32), 255).save(files["mask"])
    output = f"--output={tmp_path / 'output'}" if name != "evaluate" else f"--json={tmp_path / 'output.json'}"
    arguments, name = [text.format(**files) for text in COMMANDS[name]], name.split(".")[0]
    monkeypatch.setattr("glo_lightning.explore.trained_run.find_device", lambda accelerator: DEVICE)
    with Elsewhere():
        status, _, errors = call(name, run_folder, *arguments, output)
    assert status == 0, errors
    assert any(tmp_path.glob("output*"))


@pytest.fixture
def trained(elsewhere):
    training = torch.randint(0, 256, (600, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    model = small(600).to(DEVICE).eval().requires_grad_(False)
    return model, training


def test_encoding(trained):
    model, training = trained
    images = torch.rand(5, 3, 32, 32).to(DEVICE) * 2 - 1
    loss = make_loss(find_loss("MSELoss"), 32, 3).to(DEVICE)
    starts = ["pca", "nearest", "mean", "random"]
    assert model.encode(images, training, starts, loss, steps=2).device == DEVICE


def test_an_encoder(trained):
    model, training = trained
    encoder = fit_encoder(model, lambda rows: training[rows])
    assert encoder(torch.rand(2, 3, 32, 32).to(DEVICE), model).device == DEVICE


@pytest.mark.parametrize("prior", [Gaussian(), Diagonal(), Mixture(2), Flow(steps=4, width=8, blocks=1)])
def test_samples(trained, prior):
    model, _ = trained
    codes = sample_codes(prior.fit(model.latents.weight), model.latents.weight, 3, model.project)
    assert codes.device == generate(model, codes).device == DEVICE


def test_ways_and_measures(trained):
    model, training = trained
    table = model.latents.weight
    flow = Flow(**SMALL_FLOW).fit(table, torch.randint(0, 2, (600, 2)), [2, 2])
    assert flow.log_density(table[:3]).device == DEVICE
    assert sample_codes(flow, table, 3, model.project, conditions=torch.tensor([1, -1])).device == DEVICE
    for path in (lerp, slerp, flow_path(flow)):
        assert path(table[:2], table[2:4], 4, model.project).device == DEVICE
    assert walk(table[0], principal_axes(table, 1)[0], 3, 2.0, model.project).device == DEVICE
    nearest(table[:2], [(table, torch.arange(len(table)))])
    neighbours_kept(table.cpu(), table.cpu())
    images = generate(model, table[:16])
    wanted = fit_pca(training[:64], 6).reconstruct(from_uint8(training[:16])).to(DEVICE)
    assert quality(images, wanted, model.loss)["psnr"] > 0
    interpolation_metrics(
        {"arc": slerp, "flow": flow_path(flow)}, model, table, model.project, training, Features(), 20
    )
