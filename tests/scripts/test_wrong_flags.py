"""A mistyped flag, in every command."""

import pytest
from conftest import REPOSITORY
from programs import call

COMMANDS = sorted(path.stem for path in (REPOSITORY / "scripts").glob("*.py"))
REQUIRED = {
    "train": [],
    "benchmark": [],
    "build_lmdb": ["one", "two"],
    "encode": ["one", "2"],
    "interpolate": ["one", "2", "3"],
    "export": ["one", "two"],
    "arithmetic": ["one", "--a", "1", "--b", "2", "--c", "3"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_flag_ends_every_command_with_one_line_and_status_2(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, (line,) = call(name, *REQUIRED.get(name, ["one"]), "--no_such_flag")
    assert status == 2
    assert "no_such_flag" in line
    assert list(tmp_path.iterdir()) == []
