"""scripts/studies/recipes at its smallest: what it measures is not judged here."""

import json

import numpy as np
import pytest
from conftest import encode, flat_image, write_lmdb
from recipes import RECIPES, make_recipe
from run_study import run_study


def test_every_seed_is_measured(tmp_path):
    root = write_lmdb(tmp_path / "lmdb", {b"%03d" % row: encode(flat_image(row)) for row in range(104)})
    names, file = ("no L2", "GroupNorm"), tmp_path / "result.json"
    options = ("--root", root, "--epochs", 1, "--seeds", 2, "--width", 2, "--json", file)
    table = run_study("recipes/recipes", *options, "--only", *names)
    runs = json.loads(file.read_text())["runs"]
    assert list(runs) == list(names)
    for name in names:
        psnr = [run["PSNR, dB"] for run in runs[name]]
        assert f"| {name} | 1.00 ± 0.00 | {np.mean(psnr):.2f} ± {np.std(psnr, ddof=1):.2f} |" in table


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_model(name):
    model, data = make_recipe(name, None, width=2)(0)
    assert len(model.latents.weight) == data.num_images
