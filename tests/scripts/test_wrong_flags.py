"""A mistyped flag, in every command."""

import runpy
import sys

import pytest
from conftest import REPOSITORY

COMMANDS = sorted(path.name for path in (REPOSITORY / "scripts").glob("*.py"))
REQUIRED = {
    "train.py": [],
    "benchmark.py": [],
    "build_lmdb.py": ["one", "two"],
    "encode.py": ["one", "2"],
    "interpolate.py": ["one", "2", "3"],
    "export.py": ["one", "two"],
}
REQUIRED["arithmetic.py"] = ["one", "--a", "1", "--b", "2", "--c", "3"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_flag_ends_every_command_with_one_line_and_status_2(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *REQUIRED.get(name, ["one"]), "--no_such_flag"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPOSITORY / "scripts" / name), run_name="__main__")
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert errors.count("\n") == 1
    assert "no_such_flag" in errors
    assert list(tmp_path.iterdir()) == []
