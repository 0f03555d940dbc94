"""scripts/studies/codes at its smallest."""

import json

import numpy as np
import pytest
from run_study import run_study


def test_each_row_is_trained_once_and_shows_the_samples_deviation(flat_lmdb, tmp_path, monkeypatch):
    file, rows = tmp_path / "codes.json", ["pca, frozen", "random, whitened steps 1"]
    sizes = ("--num_samples=40", "--holdout=8", "--image_size=32", "--width=2", "--dims=3", "--epochs=1", "--seeds=2")
    arguments = ("--json", file, "--root", flat_lmdb, *sizes, "--encode_steps=2", "--precision=32-true")
    table = run_study("codes/codes", *arguments, "--only", *rows)
    monkeypatch.setattr("harness.train", lambda *_, **__: pytest.fail("trained again"))
    assert run_study("codes/codes", *arguments, "--only", *rows) == table
    runs = json.loads(file.read_text())["runs"]
    assert set(runs) == {f"{row}, D = 3" for row in rows}
    for row, line in zip(rows, table.splitlines()[3:], strict=True):
        cells = [cell.strip() for cell in line.split("|")[2:4]]
        for part, cell in zip(("training", "held-out"), cells, strict=True):
            values = [run[part] for run in runs[f"{row}, D = 3"]]
            assert cell == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
