"""scripts/studies/paper_scale on a run of a few seconds."""

import json

import pytest
from conftest import curves
from run_study import run_study


def test_a_run_is_described_by_its_curves_and_the_plain_loop_stands_beside_it(run, tmp_path, flat_lmdb):
    folder, results = tmp_path / "run", tmp_path / "results.json"
    flags = ("--data.holdout=20", "--data.num_samples=100", "--data.batch_size=40", "--model.generator.width=2")
    flags += ("--model.latent_dim=4", "--max_epochs=2", "--prior=null", "--data.root", flat_lmdb)
    assert run(*flags, "--output", folder)[0] == 0
    arguments = (folder, "--plain", "--workers", "0", "--encoded", "8", "--json", results)
    table = run_study("paper_scale/paper_scale", *arguments)
    found, losses = json.loads(results.read_text()), curves(folder)["train/loss_epoch"]
    assert found["run"]["epochs"] == 2
    assert [found["run"][key] for key in ("loss after 1", "loss after all")] == pytest.approx([v for _, v in losses])
    plain = found["minimal_glo's loop"]
    assert 0.5 * losses[0][1] < plain["loss after 1"] < 2 * losses[0][1]  # the same loss, of the same images
    assert "| run | 2.000 |" in table
