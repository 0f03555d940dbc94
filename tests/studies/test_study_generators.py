"""scripts/studies/decoders.py and generators.py at their smallest."""

import json
import runpy
import sys

import decoders
import pytest
import torch
from conftest import REPOSITORY
from generators import WIDTHS, RowsAndAdam, kept_megabytes
from torch import nn

from glo_lightning.module import GLO


class OneLayer(nn.Module):
    def __init__(self, latent_dim: int, image_size: int, width: int, channels: int = 3):
        super().__init__()
        self.layer, self.shape = nn.Linear(latent_dim, channels * image_size**2), (channels, image_size, image_size)

    def forward(self, codes):
        return self.layer(codes).tanh().unflatten(1, self.shape)


NAMES = [name.removeprefix("decoders.") for name in WIDTHS if name != "dcgan"]
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


def test_the_generator_steps_as_torchs_adamw_and_the_rows_as_sgd():
    torch.manual_seed(0)
    layer, other, table = nn.Linear(3, 2), nn.Linear(3, 2), nn.Embedding(4, 3, sparse=True)
    other.load_state_dict(layer.state_dict())
    before = table.weight.detach().clone()
    groups = [{"params": list(layer.parameters()), "lr": 2.0}, {"params": [table.weight], "lr": 0.5}]
    optimizer = RowsAndAdam(groups)
    expected = torch.optim.AdamW(other.parameters(), 0.002, (0.9, 0.99))
    for _ in range(3):
        for module, steps in ((layer, optimizer), (other, expected)):
            steps.zero_grad()
            module(table(torch.tensor([1])).detach()).sum().backward()
        table(torch.tensor([1])).sum().backward()
        optimizer.step()
        expected.step()
        table.weight.grad = None
    torch.testing.assert_close(layer.weight, other.weight)
    before[1] -= 3 * 0.5
    torch.testing.assert_close(table.weight.detach(), before)


def test_what_a_step_keeps_is_the_activations_that_its_gradients_need():
    model = GLO(40, 4, image_size=32, generator=f"{__name__}.OneLayer", init="random")
    images, code = 32 * 3 * 32 * 32 * 4, 32 * 4 * 4
    assert kept_megabytes(model) == pytest.approx((images + code) / 1e6)  # tanh keeps its output, the layer its input


def test_each_generator_is_trained_once_and_its_row_printed(tmp_path, monkeypatch, capsys, flat_lmdb):
    results = tmp_path / "results.json"
    arguments = [
        "generators.py",
        "--json",
        str(results),
        "--root",
        str(flat_lmdb),
        "--num_samples",
        "40",
        "--holdout",
        "8",
    ]
    arguments += [
        "--image_size",
        "32",
        "--latent_dim",
        "4",
        "--seconds",
        "0.01",
        "--encoded",
        "4",
        "--rates",
        "AdamW 0.001",
    ]
    arguments += ["--generators", "decoders.Normless", "decoders.Transformer"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(REPOSITORY / "scripts" / "studies" / "generators.py"), run_name="__main__")
        printed = capsys.readouterr().out
        assert "| Normless | AdamW 0.001 |" in printed
    kept = json.loads(results.read_text())
    assert [len(kept[f"decoders.{name}, AdamW 0.001"]) for name in ("Normless", "Transformer")] == [1, 1]
