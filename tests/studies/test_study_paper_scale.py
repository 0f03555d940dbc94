"""scripts/studies/paper_scale.py on a run of a few seconds."""

import json
import runpy
import sys

import pytest
from conftest import REPOSITORY, curves


def test_a_run_is_described_by_its_curves_and_the_plain_loop_stands_beside_it(
    run, tmp_path, monkeypatch, capsys, flat_lmdb
):
    folder, results = tmp_path / "run", tmp_path / "results.json"
    flags = ["--data.root", flat_lmdb, "--data.holdout", 20, "--data.image_size", 64, "--data.num_samples", 100]
    flags += [
        "--data.batch_size",
        40,
        "--model.width",
        2,
        "--model.latent_dim",
        4,
        "--max_epochs",
        2,
        "--prior",
        "null",
    ]
    assert run(*flags, "--output", folder)[0] == 0
    arguments = [str(folder), "--plain", "--workers", "0", "--encoded", "8", "--json", str(results)]
    monkeypatch.setattr(sys, "argv", ["paper_scale.py", *arguments])
    runpy.run_path(str(REPOSITORY / "scripts" / "studies" / "paper_scale.py"), run_name="__main__")
    found, losses = json.loads(results.read_text()), curves(folder)["train/loss_epoch"]
    assert found["run"]["epochs"] == 2
    assert [found["run"][key] for key in ("loss after 1", "loss after all")] == pytest.approx([v for _, v in losses])
    plain = found["minimal_glo's loop"]
    assert 0.5 * losses[0][1] < plain["loss after 1"] < 2 * losses[0][1]  # the same loss, of the same images
    assert "| run | 2.000 |" in capsys.readouterr().out
