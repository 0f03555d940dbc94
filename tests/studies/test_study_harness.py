"""scripts/studies/harness.py, and that every program of a study explains itself."""

import json

import harness
import numpy as np
import pytest
from run_study import STUDIES, run_study

PROGRAMS = sorted(file.relative_to(STUDIES).with_suffix("").as_posix() for file in STUDIES.glob("*/*.py"))
MODULES = ("baselines/autoencoders", "priors/other_priors")  # that programs import


def test_the_deviation_is_the_samples():
    values = [20.0, 21.5, 19.25]
    assert harness.mean_and_deviation(values, 3) == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert (harness.mean_and_deviation([2.5], 1), harness.mean_and_deviation([])) == ("2.5", "-")


def test_a_table_has_a_row_for_each_key_and_a_column_for_each_measure():
    table = harness.markdown("x", {"one": {"a": 1.25}, "two": {"a": "3 ± 1", "b": 2}}, digits=1)
    assert table.splitlines() == ["| x | a | b |", "|---|---|---|", "| one | 1.2 |  |", "| two | 3 ± 1 | 2.0 |"]


def test_recipes_get_steps_of_equal_seconds(monkeypatch):
    times = iter([2.0, 0.5, 1.0, 0.4, 4.0, 0.8])
    monkeypatch.setattr(harness, "train", lambda recipe, *_, **__: (None, None, next(times)))
    assert harness.steps_within(12.0, {"slow": None, "fast": None}, "32-true") == {"slow": 12, "fast": 30}


def test_an_interrupted_study_continues_with_the_runs_and_steps_that_are_missing(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    results = harness.Results(file)
    results.steps["one"] = 7
    assert list(results.missing(["one", "two"], 2)) == [("one", 0), ("two", 0), ("one", 1), ("two", 1)]
    results.add("one", {"PSNR": 20.0, "SSIM": 0.5})
    again = harness.Results(file)
    assert list(again.missing(["one", "two"], 2)) == [("two", 0), ("one", 1), ("two", 1)]
    monkeypatch.setattr(harness, "steps_within", lambda seconds, recipes, *_: dict.fromkeys(recipes, 9))
    again.measure_steps(1.0, {"one": None, "two": None}, "32-true", "cpu")
    assert json.loads(file.read_text())["steps"] == {"one": 7, "two": 9}
    assert again.table("row", ["one"]).splitlines()[2] == "| one | 20.00 | 0.500 |"


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name not in MODULES])
def test_a_program_explains_itself(program):
    assert " (default: " in run_study(program, "--help")
