"""scripts/studies/equal_seconds at its smallest."""

import functools
import json
import re
import shlex

import pytest
import torch
from equal_seconds import BASE, ROWS
from programs import refusal
from run_study import STUDIES, run_study
from torch import nn

from glo_lightning.module import GLO
from glo_lightning.priors.flow import Flow

ROW = {"generators": "skips, code_scale 2, AdamW 0.003", "losses": "pixels, L2, SGD 3", "codes": "whitened, SGD 1"}


@pytest.mark.parametrize("what", ROWS)
def test_every_row_is_a_model(what):
    for arguments in ROWS[what].values():
        model = GLO(40, 64, image_size=32, init="random", **BASE | arguments)
        assert model.eval()(torch.zeros(1, 64)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("what", ROWS)
def test_a_row_is_trained_once_and_printed(tmp_path, flat_lmdb, what):
    results, images = tmp_path / "results.json", ("--root", flat_lmdb, "--num_samples", 40, "--image_size", 32)
    arguments = (what, "--json", results, *images, "--holdout", 8, "--latent_dim", 4, "--only", ROW[what])
    short = ("--seconds", 0.01, "--encoded", 4, "--no_flow")
    run_study("equal_seconds/equal_seconds", *arguments, *short, "--seeds", 0)
    assert json.loads(results.read_text())["runs"] == {}
    table = run_study("equal_seconds/equal_seconds", *arguments, *short, "--seeds", 1)
    assert f"| {ROW[what]} | " in table
    found = json.loads(results.read_text())
    assert list(found["runs"]) == list(found["steps"]) == [ROW[what]]
    assert run_study("equal_seconds/equal_seconds", *arguments, *short, "--seeds", 1) == table


class MeanColour(nn.Module):
    """Features (B, 3) of uint8 images (B, 3, H, W)."""

    def forward(self, images):
        return images.float().mean((2, 3))


def test_distances_are_measured_where_there_are_features(tmp_path, monkeypatch):
    monkeypatch.setattr("glo_lightning.priors.flow.Flow", functools.partial(Flow, steps=10, width=8, blocks=1))
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)
    images = ("--num_samples", 48, "--holdout", 8, "--image_size", 32, "--latent_dim", 4)
    arguments = ("--json", tmp_path / "results.json", *images, "--seconds", 0.01, "--encoded", 4, "--seeds", 1)
    features = ("--features", f"{__name__}.MeanColour", "--only", "DCGAN, SGD 1")
    table = run_study("equal_seconds/equal_seconds", "generators", *arguments, *features)
    assert all(column in table for column in ("reconstructions", "samples", "half-way"))


def test_the_pages_commands_name_rows_that_exist():
    commands = re.findall(
        r"equal_seconds.py (\w+) .* --only (.*)", (STUDIES / "equal_seconds" / "README.md").read_text()
    )
    assert {what for what, _ in commands} == set(ROWS)
    assert all(row in ROWS[what] for what, rows in commands for row in shlex.split(rows))


def test_a_row_that_does_not_exist_is_one_line(tmp_path):
    line = refusal("studies/equal_seconds/equal_seconds", "codes", "--json", tmp_path / "a", "--only", "DCGAN, SGD 1")
    assert line.startswith("--only DCGAN, SGD 1: no such row. Give some of frozen, SGD 1;")
