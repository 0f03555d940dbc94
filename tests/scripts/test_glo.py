"""``glo`` and ``python -m glo_lightning``: the commands by their names."""

import sys

import pytest
from conftest import REPOSITORY

from glo_lightning.__main__ import NAMES, main


def test_every_command_has_its_script():
    others = {"benchmark", "make_faces", "make_shipped"}  # which need the checkout
    assert {path.stem for path in (REPOSITORY / "scripts").glob("*.py")} == {*NAMES, *others}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["walk", "--help"], 0, "Walks along the principal axes"),
        (["--help"], 0, "interpolate"),
        ([], 0, "interpolate"),
        (["interpolat", "RUN"], 2, "interpolat: there is no such command; did you mean interpolate?"),
        (["walk", "no_run", "--no_such_flag"], 2, "unrecognized arguments: --no_such_flag"),
    ],
)
def test_a_command_is_run_by_its_name(words, status, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["glo", *words])
    ended = 0
    try:
        main()
    except SystemExit as stop:
        ended = int(stop.code or 0)
    printed = capsys.readouterr()
    assert ended == status
    assert said in (printed.err if status else printed.out)
