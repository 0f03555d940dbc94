"""scripts/studies/codes.py at its smallest, and the ways for the rows that live beside it."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from pytorch_lightning import Callback, Trainer
from rows import LateGLO

from glo_lightning.data import LSUNDataModule
from glo_lightning.optimizers import find_optimizer


def test_row_adam_is_adam_on_each_row_by_itself():
    torch.manual_seed(0)
    table, dense = torch.nn.Embedding(5, 3, sparse=True), torch.nn.Linear(3, 1)
    alone = [row.clone().requires_grad_() for row in table.weight.detach()]
    adams = [torch.optim.Adam([row], lr=0.1) for row in alone]
    weight = dense.weight.detach().clone()
    optimizer = find_optimizer("rows.RowAdam")(
        [{"params": dense.parameters(), "lr": 0.5}, {"params": table.parameters(), "lr": 0.1}]
    )
    for rows in ([0, 1], [3], [1, 0], [1, 3], [0]):
        optimizer.zero_grad()
        table(torch.tensor(rows)).pow(3).sum().backward()
        dense.weight.grad = torch.ones_like(weight)
        optimizer.step()
        weight -= 0.5
        for row in rows:
            adams[row].zero_grad()
            alone[row].pow(3).sum().backward()
            adams[row].step()
    torch.testing.assert_close(table.weight.detach(), torch.stack([row.detach() for row in alone]))
    torch.testing.assert_close(dense.weight.detach(), weight)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize(("latent_from", "moving"), [(0.5, 6), (0.9, 1)])
def test_codes_that_learn_late_do_not_move_before(tmp_path, latent_from, moving):
    data = LSUNDataModule(num_samples=24, image_size=32, batch_size=8)
    model = LateGLO(
        24, latent_from, latent_dim=6, image_size=32, width=4, latent_lr=1.0, schedule="cosine",
        latent_optimizer="rows.RowAdam",
    )  # fmt: skip
    moved, rates, initial = [], [], []

    class Look(Callback):
        def on_train_batch_start(self, *_):
            initial.append(model.latents.weight.detach().clone())

        def on_train_batch_end(self, *_):
            moved.append(bool((model.latents.weight != initial[0]).any()))
            rates.append(model.optimizers().param_groups[1]["lr"])

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=4, enable_model_summary=False, callbacks=[Look()],
        **quiet,
    ).fit(model, data)  # fmt: skip
    assert moved == [False] * (12 - moving) + [True] * moving
    left = np.maximum(np.arange(12) / 12 - latent_from, 0) / (1 - latent_from)
    np.testing.assert_allclose(rates, np.where(moved, 0.5 + 0.5 * np.cos(np.pi * left), 0), atol=1e-12)


def test_the_study_of_codes_trains_each_way_once_and_shows_the_samples_deviation(
    flat_lmdb, tmp_path, monkeypatch, capsys
):
    sizes = ("--num_samples=40", "--holdout=8", "--image_size=32", "--width=2", "--dims=3", "--epochs=1", "--seeds=2")
    ways = ("--starts=pca", "--ways", "learned late", "frozen", "--encode_steps=2", "--precision=32-true")
    file = tmp_path / "codes.json"
    monkeypatch.setattr(sys, "argv", ["codes.py", "--json", str(file), "--root", str(flat_lmdb), *sizes, *ways])
    monkeypatch.syspath_prepend(REPOSITORY / "scripts" / "studies")
    printed = []
    for _ in range(2):
        runpy.run_path(str(REPOSITORY / "scripts" / "studies" / "codes.py"), run_name="__main__")
        printed.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("| pca")])
        monkeypatch.setattr("harness.train", lambda *_, **__: pytest.fail("trained again"))
    results = json.loads(file.read_text())
    assert set(results) == {"pca 3 frozen", "pca 3 learned late"}
    assert printed[0] == printed[1]
    for way, line in zip(("frozen", "learned late"), printed[0], strict=True):
        cells = [cell.strip() for cell in line.split("|")[3:5]]
        for key, cell in zip(("train", "holdout"), cells, strict=True):
            values = [run[key] for run in results[f"pca 3 {way}"]]
            assert cell == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
