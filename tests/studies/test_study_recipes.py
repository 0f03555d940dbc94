"""scripts/studies/recipes.py and the harness at their smallest: what they measure is not judged here."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode, flat_image, write_lmdb
from harness import mean_and_deviation

STUDIES = REPOSITORY / "scripts" / "studies"


def test_the_deviation_is_the_samples():
    values = [20.0, 21.5, 19.25]
    assert mean_and_deviation(values, 3) == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert (mean_and_deviation([2.5], 1), mean_and_deviation([], 1)) == ("2.5", "-")


def test_the_study_of_recipes_measures_every_seed(tmp_path, monkeypatch, capsys):
    root = write_lmdb(tmp_path / "lmdb", {b"%03d" % row: encode(flat_image(row)) for row in range(104)})
    names = ("averaged weights", "constant rate of the codes")
    options = ("--root", root, "--epochs", 1, "--seeds", 2, "--width", 2, "--json", tmp_path / "result.json")
    monkeypatch.setattr(sys, "argv", ["recipes.py", *map(str, options), "--only", *names])
    runpy.run_path(str(STUDIES / "recipes.py"), run_name="__main__")
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result) == list(names)
    assert all(len(runs) == 2 and all(run["epochs"] == 1 for run in runs) for runs in result.values())
    table = capsys.readouterr().out
    for name, runs in result.items():
        psnr = [run["psnr"] for run in runs]
        assert f"| {name} | 1.0 | {np.mean(psnr):.2f} ± {np.std(psnr, ddof=1):.2f} |" in table


def test_every_recipe_can_be_built_and_differs_from_the_first():
    from recipes import BASE, RECIPES, recipe_of

    for name, (changes, patch) in RECIPES.items():
        model, data = recipe_of(name, None, 2)(0)
        given = {**BASE, **changes}
        assert data.batch_size == given.pop("batch_size")
        assert given.items() <= model.hparams.items()
        norms = {type(layer) for layer in model.generator.layers if "Norm" in type(layer).__name__}
        assert norms == {torch.nn.GroupNorm if name == "GroupNorm" else torch.nn.BatchNorm2d}
        assert bool(changes) or patch is not None or name == next(iter(RECIPES))


def test_recipes_get_steps_of_equal_seconds(flat_lmdb, monkeypatch):
    import harness

    times = iter([2.0, 0.5, 1.0, 0.4, 4.0, 0.8])
    monkeypatch.setattr(harness, "train", lambda recipe, *_, **__: (None, None, next(times)))
    assert harness.steps_within(12.0, {"slow": None, "fast": None}, "32-true") == {"slow": 12, "fast": 30}


def test_averaged_weights_are_what_the_steps_weights_average_to():
    from recipes import AverageWeights

    module = torch.nn.Module()
    module.generator, module.latents = torch.nn.Linear(2, 1, bias=False), torch.nn.Embedding(4, 2)
    average, expected = AverageWeights(), None
    average.on_train_start(None, module)
    for value in (1.0, 2.0, 4.0):
        module.generator.weight.data.fill_(value)
        average.on_train_batch_end(None, module)
        expected = value if expected is None else 0.99 * expected + 0.01 * value
    average.on_train_end(None, module)
    assert module.generator.weight.detach().flatten().tolist() == pytest.approx([expected] * 2)
