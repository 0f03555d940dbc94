"""The harness in its short form, and in its long one: pytest -m slow."""

from pathlib import Path

import pytest
from break_things import RUN, Runs, break_things, disk, killed
from kill_anywhere import kill_anywhere


def test_runs_killed_at_random_instants_end_as_the_one_that_was_not(tmp_path):
    runs = Runs(tmp_path, seed=1, flags=(*RUN, "--max_epochs=4"))
    assert killed(runs, kills=3).tried == 3
    disk(runs, "crash between write and rename")


@pytest.mark.slow
def test_runs_broken_in_every_way_end_as_the_one_that_was_not(tmp_path: Path):
    assert sum(row.tried for row in break_things(kills=50, seed=2, folder=tmp_path)) >= 50


@pytest.mark.slow
def test_commands_killed_anywhere_end_as_those_that_were_not(tmp_path: Path):
    assert sum(kill_anywhere(kills=100, seed=3, folder=tmp_path).values()) == 100
