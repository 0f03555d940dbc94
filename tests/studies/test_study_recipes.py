"""scripts/studies/recipes at its smallest: what it measures is not judged here."""

import json

import numpy as np
import torch
from conftest import encode, flat_image, write_lmdb
from recipes import BASE, RECIPES, make_recipe
from run_study import run_study

from glo_lightning.module import PARTS
from glo_lightning.parts import describe_part


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


def test_every_recipe_can_be_built_and_differs_from_the_first():
    for name, changes in RECIPES.items():
        model, data = make_recipe(name, None, 2)(0)
        arguments = {**BASE, **changes}
        assert data.batch_size == arguments.pop("batch_size")
        described = {key: describe_part(value, key) if key in PARTS else value for key, value in arguments.items()}
        described.pop("generator", None)  # its norms tell
        assert {key: model.hparams[key] for key in described} == described
        norms = {type(layer) for layer in model.generator.layers if "Norm" in type(layer).__name__}
        assert norms == {torch.nn.GroupNorm if name == "GroupNorm" else torch.nn.BatchNorm2d}
        assert bool(changes) == (name != next(iter(RECIPES)))
