"""A mistyped flag, in every command."""

import pytest
from conftest import REPOSITORY
from programs import refusal

COMMANDS = sorted(path.stem for path in (REPOSITORY / "scripts").glob("*.py"))
COMMANDS.remove("sweep")  # hands them to scripts/train.py; see test_sweep.py
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
    assert "no_such_flag" in refusal(name, *REQUIRED.get(name, ["one"]), "--no_such_flag")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--overwrite"], "--overwrite True: has no effect without --export. Leave it out."),
        (["--export", "page.html", "--port=8000"], "--port 8000: has no effect with --export, which serves no page."),
        (["--export", "page.html", "--host", "0.0.0.0"], "--host 0.0.0.0: has no effect with --export"),
        (["--export", "page.html", "--no_open"], "--no_open True: has no effect with --export"),
    ],
)
def test_a_flag_of_the_page_without_effect_is_refused(flags, line, tmp_path):
    (tmp_path / "config.yaml").touch()
    assert refusal("browse", tmp_path, *flags).startswith(line)
